"""deployments/compose.yaml as Docker Compose reads it: YAML, merged, variables filled in."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / "deployments"
VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?:(?P<kind>:[-?])(?P<otherwise>[^}]*))?\})")


def load(variables: Mapping[str, str], file: str = "compose.yaml") -> dict[str, Any]:
    """The file with `${NAME}`, `${NAME:-default}`, `${NAME:?message}` and `$$` filled in; KeyError for one missing."""
    return _filled(yaml.safe_load((FOLDER / file).read_text()), variables)


def example_variables() -> set[str]:
    """The variables that compose.env.example asks for, those that are commented out left aside."""
    return set(re.findall(r"^(\w+)=$", (FOLDER / "compose.env.example").read_text(), re.MULTILINE))


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(each, variables) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, variables) for each in value]
    return VARIABLE.sub(lambda found: _one(found, variables), value) if isinstance(value, str) else value


def _one(found: re.Match[str], variables: Mapping[str, str]) -> str:
    if found["name"] is None:
        return "$"
    if found["kind"] == ":-":
        return variables.get(found["name"]) or found["otherwise"]
    return variables[found["name"]]
