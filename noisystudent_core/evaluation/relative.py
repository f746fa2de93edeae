"""Means of a model's figures relative to another model's."""

import math
from collections.abc import Mapping
from statistics import fmean

from noisystudent_core.errors import ConfigurationError


def mean_relative(figures: Mapping[str, float], baseline: Mapping[str, float], kind: str) -> float:
    """The mean over names of 100 x figure / the baseline's figure; both are fractions.

    Raises `ConfigurationError` for names that only one of the two has, for what is no fraction, for a baseline of 0 and
    where there is nothing.
    """
    if not baseline or figures.keys() != baseline.keys():
        missing = ", ".join(sorted(baseline.keys() - figures.keys())) or "none"
        unknown = ", ".join(sorted(figures.keys() - baseline.keys())) or "none"
        raise ConfigurationError(
            f"{len(figures)} {kind}s, {len(baseline)} in the baseline; missing: {missing}; unknown: {unknown}; "
            f"a mean is comparable over the same {kind}s only: measure all of them"
        )
    for owner, values in (("", figures), ("baseline ", baseline)):
        for name, value in values.items():
            if not (0 <= value <= 1) or math.isnan(value) or (owner and value == 0):
                least = "above 0" if owner else "at least 0"
                raise ConfigurationError(f"{owner}{name}={value}: must be {least} and at most 1; give fractions")
    return fmean(100 * figures[name] / baseline[name] for name in baseline)
