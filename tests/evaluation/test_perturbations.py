"""Flip probabilities and mFR by hand, and the evaluator on nets that know their answers."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from noisystudent_core.data.mixing import derive
from noisystudent_core.errors import ConfigurationError, DataError, LabelError
from noisystudent_core.evaluation.perturbations import ALEXNET, NAMES, flip_probabilities, mean_flip_rate, run
from noisystudent_core.evaluation.sequences import perturbation_sequence


def test_noise_is_compared_with_the_first_frame_others_with_the_one_before() -> None:
    sequences = torch.tensor([[0, 1, 1, 1, 0], [2, 2, 2, 2, 2], [0, 1, 0, 1, 0]]).T  # [T, B]
    for name in ("gaussian_noise", "shot_noise"):
        assert flip_probabilities(sequences, name).tolist() == [0.75, 0.0, 0.5]
    for name in NAMES[2:]:
        assert flip_probabilities(sequences, name).tolist() == [0.5, 0.0, 1.0]


@given(st.lists(st.integers(0, 3), min_size=2, max_size=9), st.sampled_from(NAMES))
def test_a_sequences_flips_are_counted_one_by_one(classes: list[int], name: str) -> None:
    flips, reference = 0, classes[0]
    for current in classes[1:]:
        flips += current != reference
        if "noise" not in name:
            reference = current
    found = flip_probabilities(torch.tensor(classes)[:, None], name)
    assert found.tolist() == pytest.approx([flips / (len(classes) - 1)])


def test_fewer_than_two_frames_and_unknown_names_are_told() -> None:
    with pytest.raises(DataError, match="1 frames of tilt: must be at least 2"):
        flip_probabilities(torch.zeros(1, 3), "tilt")
    with pytest.raises(ConfigurationError, match="perturbation 'spatter': must be one of gaussian_noise"):
        flip_probabilities(torch.zeros(3, 3), "spatter")


def test_the_mean_flip_rate() -> None:
    assert mean_flip_rate(ALEXNET) == pytest.approx(100)
    half_as_often = {name: value * (0.5 if name in ("tilt", "scale") else 1) for name, value in ALEXNET.items()}
    assert mean_flip_rate(half_as_often) == pytest.approx(90)
    teacher = {"tilt": 0.1, "snow": 0.4}
    assert mean_flip_rate({"tilt": 0.15, "snow": 0.1}, teacher) == pytest.approx((150 + 25) / 2)
    with pytest.raises(ConfigurationError, match="missing: scale, shot_noise; unknown: none"):
        mean_flip_rate({name: 0.1 for name in NAMES if name not in ("scale", "shot_noise")})
    with pytest.raises(ConfigurationError, match=r"tilt=23\.53: must be at least 0 and at most 1; give fractions"):
        mean_flip_rate(dict(ALEXNET) | {"tilt": 23.53})


class Bright(nn.Module):
    """Class 1 where the mean is at least `threshold`, else class 0."""

    def __init__(self, threshold: float = 127.5) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(threshold))

    def forward(self, images: Tensor) -> Tensor:
        mean = images.float().mean((1, 2, 3)) - self.threshold
        return torch.stack((-mean, mean), 1)


def measured(
    net: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 2, perturbations=NAMES, seed: int = 0
) -> dict[str, float]:
    def sequences(name: str) -> Any:
        seeds = torch.arange(len(images)) + derive(seed, name, 0)
        for some, seeds_B, known in zip(*(column.split(batch_size) for column in (images, seeds, labels)), strict=True):
            yield from zip(perturbation_sequence(some, name, seeds_B).transpose(0, 1), known.tolist(), strict=True)

    return dict(run(net, ((name, sequences(name)) for name in perturbations)))


def greys(*levels: int) -> Tensor:
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 32, 32)


def test_flips_by_hand() -> None:
    """Brightness moves a grey image from -57 to +57 levels in 30 steps: 120 flips once, right in 17 frames of 31."""
    found = measured(Bright(), greys(120, 10, 250), torch.tensor([0, 0, 0]), perturbations=("brightness",))
    assert found["flip_probability/brightness"] == pytest.approx(100 / 30 / 3)
    assert found["mean_flip_probability"] == found["flip_probability/brightness"]
    right = sum(math.trunc(120 + 3.825 * (i - 15) + 1e-3) < 127.5 for i in range(31))
    assert found["perturbation_top1"] == pytest.approx(100 * (right / 31 + 1 + 0) / 3)


def test_all_perturbations_and_batches_do_not_matter() -> None:
    images = torch.randint(0, 256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    labels = torch.arange(3) % 2
    found = measured(Bright(), images, labels)
    assert list(found) == [*(f"flip_probability/{n}" for n in NAMES), "mean_flip_probability", "perturbation_top1"]
    assert found["mean_flip_probability"] == pytest.approx(sum(found[f"flip_probability/{n}"] for n in NAMES) / 10)
    noise = {"perturbations": ("gaussian_noise", "snow")}
    whole, other = (measured(Bright(), images, labels, 3, seed=seed, **noise) for seed in (0, 1))
    assert all(found[name] == whole[name] for name in whole if name.startswith("flip"))
    assert whole != other


def test_a_net_that_diverged_flips_always() -> None:
    net = Bright(math.nan)
    found = measured(net, greys(120), torch.tensor([0]), perturbations=("rotate", "shot_noise"))
    assert found["mean_flip_probability"] == 100 and found["perturbation_top1"] == 0


def test_nothing_to_measure_and_wrong_labels_are_told() -> None:
    with pytest.raises(DataError, match="0 images"):
        dict(run(Bright(), []))
    with pytest.raises(LabelError, match="label 7"):
        measured(Bright(), greys(10), torch.tensor([7]))
