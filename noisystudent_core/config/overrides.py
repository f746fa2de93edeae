"""Overrides by dotted path, as `--set iterations.0.train.warmup_epochs=5` and flow parameters give them."""

import json
import textwrap
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from noisystudent_core.config.settings import Settings
from noisystudent_core.errors import ConfigurationError

Config = TypeVar("Config", bound=Settings)


def apply_overrides(config: Config, overrides: Mapping[str, Any]) -> Config:
    """Return `config` with the value at each dotted path replaced; `*` stands for every iteration.

    Raises `ConfigurationError` for a path that names no setting and for a value that its setting refuses.
    """
    tree = config.model_dump(mode="json")
    for path, value in overrides.items():
        _replace(tree, path.split("."), value, path)
    return validated(tree, type(config))


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """Turn `key=value` words into overrides; a value is JSON where it can be read as such, else text."""
    overrides = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise ConfigurationError(f"--set {assignment}: must read key=value, as in seed=1")
        try:
            overrides[key] = json.loads(text)
        except json.JSONDecodeError:
            overrides[key] = text
    return overrides


def validated(tree: Mapping[str, Any], kind: type[Config]) -> Config:
    """Build a configuration from plain values; the error names every wrong setting in one paragraph."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        wrong = [item for item in error.errors() if item["type"] != "too_short" or not item["input"]]
        raise ConfigurationError("; ".join(map(_line, wrong))) from None


def _line(item: Any) -> str:
    path = ".".join(str(step) for step in item["loc"])
    given = "" if isinstance(item["input"], dict) else f"={textwrap.shorten(repr(item['input']), 80)}"
    return f"{path}{given}: {item['msg'].removeprefix('Value error, ')}"


def _replace(tree: Any, path: list[str], value: Any, whole: str) -> None:
    for branch, key in _branches(tree, path[0], whole):
        if len(path) > 1:
            _replace(branch[key], path[1:], value, whole)
        else:
            branch[key] = value


def _branches(tree: Any, step: str, whole: str) -> list[tuple[Any, Any]]:
    if isinstance(tree, list):
        places = range(len(tree)) if step == "*" else [int(step)] if step.isdigit() else []
        if places and max(places) < len(tree):
            return [(tree, place) for place in places]
        raise ConfigurationError(f"override {whole!r}: {step!r} is not one of 0 to {len(tree) - 1}, nor *")
    if isinstance(tree, dict) and step in tree:
        return [(tree, step)]
    offered = ", ".join(map(str, tree)) if isinstance(tree, dict) else "nothing below it"
    raise ConfigurationError(f"override {whole!r}: no setting named {step!r} there; there is {offered}")
