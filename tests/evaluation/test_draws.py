"""Draws: uniform, normal and independent, and SplitMix64's own numbers."""

import pytest
import torch

from noisystudent_core.data.splitmix import mix
from noisystudent_core.evaluation.draws import Draws


def test_the_finaliser_is_splitmix64s() -> None:
    """The published generator's first three outputs from the state 1234567."""
    increment = 0x9E3779B97F4A7C15
    states = [(1234567 + increment * n + 2**63) % 2**64 - 2**63 for n in (1, 2, 3)]
    outputs = [value % 2**64 for value in mix(torch.tensor(states)).tolist()]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_distributions() -> None:
    draws = Draws(torch.arange(50))
    uniform, normal = draws.uniform(0, 1000), draws.normal(1, 1001)
    assert normal.shape == (50, 1001)
    assert float(uniform.min()) >= 0 and float(uniform.max()) < 1
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.005) and float(uniform.var()) == pytest.approx(
        1 / 12, rel=0.02
    )
    assert float(normal.mean()) == pytest.approx(0, abs=0.02) and float(normal.var()) == pytest.approx(1, rel=0.02)
    assert float((normal**4).mean()) == pytest.approx(3, rel=0.05)
    bits = draws.bits(2, 1000, torch.int16).float()
    assert float(bits.mean() / 2**15) == pytest.approx(0, abs=0.01) and float(
        bits.abs().mean() / 2**14
    ) == pytest.approx(1, rel=0.01)


def test_seeds_streams_frames_and_places_are_independent() -> None:
    draws = Draws(torch.arange(2))
    columns = [draws.normal(0, 4000)[0], draws.normal(0, 4000)[1], draws.normal(1, 4000)[0]]
    columns += [Draws(torch.arange(2), 1).normal(0, 4000)[0], columns[0].roll(1), columns[0].roll(2000)]
    correlations = torch.corrcoef(torch.stack(columns)) - torch.eye(len(columns))
    assert float(correlations.abs().max()) < 0.06


def test_an_images_draws_are_its_own() -> None:
    batch, alone = Draws(torch.tensor([7, -3, 9])).normal(2, 3, 5), Draws(torch.tensor([-3])).normal(2, 3, 5)
    assert torch.equal(batch[1:2], alone)
