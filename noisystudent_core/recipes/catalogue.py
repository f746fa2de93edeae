"""Every recipe by name, and how a user's settings are put into one."""

from collections.abc import Callable, Mapping
from typing import Any

from noisystudent_core.config import NoisyStudentConfig, apply_overrides
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.recipes.everyday import digits, finetune
from noisystudent_core.recipes.imagenet import IMAGENET
from noisystudent_core.recipes.small_images import cifar10, cifar10_mismatched, cifar10_wrn, svhn

RECIPES: dict[str, Callable[..., NoisyStudentConfig]] = {
    "digits": digits,
    "finetune": finetune,
    "cifar10": cifar10,
    "cifar10_wrn": cifar10_wrn,
    "cifar10_mismatched": cifar10_mismatched,
    "svhn": svhn,
    **IMAGENET,
}


def configure(
    recipe: str,
    *,
    sources: Mapping[str, str | None] | None = None,
    shrink: float = 1.0,
    student: str | None = None,
    num_iterations: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    **shortcuts: Any,
) -> NoisyStudentConfig:
    """A recipe with its sources, then shortcuts, then overrides put in place; None leaves the recipe's own value.

    `shortcuts` are those of `SHORTCUTS` and `seed`. Raises `ConfigurationError` for an unknown recipe or setting, for a
    value out of range, and for a setting given twice.
    """
    if not 0 < shrink <= 1:
        raise ConfigurationError(f"shrink={shrink}: must be above 0 and at most 1, which is the recipe as it is")
    config = _named(recipe)(shrink=shrink)
    if num_iterations is not None:
        config = _with_iterations(config, num_iterations)
    given = {f"sources.{split}": url for split, url in (sources or {}).items() if url is not None}
    for name, value in {"student": student, **shortcuts}.items():
        if value is not None:
            given[SHORTCUTS[name]] = value
    if twice := sorted(set(given) & set(overrides or {})):
        raise ConfigurationError(f"{twice[0]!r} is given by a parameter and by overrides: leave one of them out")
    return apply_overrides(config, given | dict(overrides or {}))


SHORTCUTS = {
    "seed": "seed",
    "student": "iterations.*.model.name",
    "unlabelled_ratio": "iterations.*.pseudo_labels.unlabelled_ratio",
    "threshold": "selection.threshold",
    "num_images_per_class": "selection.num_images_per_class",
}


def _named(recipe: str) -> Callable[..., NoisyStudentConfig]:
    if recipe not in RECIPES:
        raise ConfigurationError(f"recipe {recipe!r}: must be one of {', '.join(RECIPES)}")
    return RECIPES[recipe]


def _with_iterations(config: NoisyStudentConfig, number: int) -> NoisyStudentConfig:
    """The first `number` iterations, the last one repeated where the recipe has fewer."""
    if number < 1:
        raise ConfigurationError(f"num_iterations={number}: must be >= 1; the paper does three")
    own = config.iterations
    return config.model_copy(update={"iterations": (own + own[-1:] * number)[:number]})
