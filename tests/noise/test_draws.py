"""Draws are SplitMix64, uniform, and independent between seeds and streams."""

import pytest
import torch

from noisystudent_core.errors import ConfigurationError
from noisystudent_core.noise.draws import integers, uniform

MASK = 2**64 - 1


def splitmix(state: int) -> int:
    for shift, multiplier in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = ((state ^ (state >> shift)) * multiplier) & MASK
    return state ^ (state >> 31)


@pytest.mark.parametrize("seed", [0, 1, -1, 2**62, -(2**63), 123456789])
@pytest.mark.parametrize("stream", [0, 1, 1001])
def test_uniform_is_splitmix_in_python_integers(seed: int, stream: int) -> None:
    bits = splitmix((splitmix(seed & MASK) + 0x9E3779B97F4A7C15 * (stream + 1)) & MASK)
    assert uniform(torch.tensor([seed]), stream).item() == (bits >> 11) * 2.0**-53


def test_uniform_fills_the_unit_interval_evenly() -> None:
    draws = uniform(torch.arange(100_000), stream=3)
    counts = torch.histc(draws.float(), bins=20, min=0, max=1)
    # 5,000 expected a bin, standard deviation 69
    assert counts.min() > 4650 and counts.max() < 5350


def test_streams_of_one_seed_are_uncorrelated() -> None:
    seeds = torch.arange(100_000)
    both = torch.stack((uniform(seeds, 0), uniform(seeds, 1), uniform(seeds + 1, 0)))
    correlation = torch.corrcoef(both) - torch.eye(3)
    assert correlation.abs().max() < 0.015


def test_integers_reach_every_value_below_high() -> None:
    assert integers(torch.arange(1000), 0, 14).unique().tolist() == list(range(14))


def test_integers_without_an_outcome_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"high=0: must be in \[1"):
        integers(torch.arange(3), 0, 0)
