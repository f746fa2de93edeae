"""mCE of METHOD's golden and by hand; the evaluator on nets that know their answers."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from noisystudent_core.config import Corruptions
from noisystudent_core.errors import ConfigurationError, DataError, LabelError
from noisystudent_core.evaluation import corruptions
from noisystudent_core.evaluation.corruptions import ALEXNET, NAMES, PROCEDURAL_FROST, mean_corruption_error

# ResNeXt-101 32x48d WSL (METHOD section 5), percent in the order of NAMES
WSL = (
    36.5868, 38.4364, 39.8076, 39.1164, 54.818, 37.5004, 44.4944, 39.6656, 37.8044, 29.9156, 18.376, 32.1096, 40.2592,
    25.6256, 26.9004,
)  # fmt: skip


def test_the_golden_mce() -> None:
    errors = {name: percent / 100 for name, percent in zip(NAMES, WSL, strict=True)}
    assert mean_corruption_error(errors) == pytest.approx(45.70, abs=0.005)


def test_alexnet_is_100_and_its_names_are_the_corruptions() -> None:
    assert tuple(ALEXNET) == NAMES
    assert mean_corruption_error(ALEXNET) == pytest.approx(100)


def test_the_mean_is_over_ratios_not_over_errors() -> None:
    errors, teacher = {"fog": 0.1, "snow": 0.9}, {"fog": 0.2, "snow": 0.6}
    assert mean_corruption_error(errors, teacher) == pytest.approx((50 + 150) / 2)


@given(st.dictionaries(st.sampled_from(NAMES), st.floats(0.01, 1), min_size=1), st.floats(0, 1))
def test_the_first_teacher_is_100_and_the_scale_is_linear(errors: dict[str, float], factor: float) -> None:
    assert mean_corruption_error(errors, errors) == pytest.approx(100)
    smaller = {name: error * factor for name, error in errors.items()}
    assert mean_corruption_error(smaller, errors) == pytest.approx(100 * factor)


def test_missing_and_unknown_names_are_told() -> None:
    errors = dict.fromkeys(NAMES[1:], 0.5) | {"speckle_noise": 0.5}
    with pytest.raises(ConfigurationError, match=r"missing: gaussian_noise; unknown: speckle_noise"):
        mean_corruption_error(errors)
    with pytest.raises(ConfigurationError, match="0 corruptions"):
        mean_corruption_error({}, {})


@pytest.mark.parametrize("error", [-0.01, 36.6, float("nan")])
def test_what_is_no_fraction_is_told(error: float) -> None:
    with pytest.raises(ConfigurationError, match="give fractions"):
        mean_corruption_error(dict(ALEXNET) | {"fog": error})


def test_a_baseline_without_errors_cannot_be_100() -> None:
    with pytest.raises(ConfigurationError, match=r"baseline fog=0\.0: must be above 0"):
        mean_corruption_error({"fog": 0.1}, {"fog": 0.0})


def test_no_mean_with_a_procedural_frost_is_a_published_one() -> None:
    errors = dict.fromkeys(corruptions.names(None), 0.5)
    assert PROCEDURAL_FROST in errors and "frost" not in errors
    with pytest.raises(ConfigurationError, match="no published mCE"):
        mean_corruption_error(errors)
    assert mean_corruption_error(errors, errors) == pytest.approx(100)


class Bright(nn.Module):
    """Class 1 where the mean is at least half of 255, else class 0."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.tensor(127.5))

    def forward(self, images: Tensor) -> Tensor:
        mean = images.float().mean((1, 2, 3)) - self.offset
        return torch.stack((-mean, mean), 1)


def measured(
    images: Tensor, labels: Tensor, batch_size: int = 2, severities=corruptions.SEVERITIES
) -> dict[str, float]:
    def batches(name: str, severity: int) -> Any:
        worse = corruptions.corrupt(images, name, severity, torch.arange(len(images)))
        return zip(worse.split(batch_size), labels.split(batch_size), strict=True)

    sets = ((name, severity, batches(name, severity)) for name in corruptions.names(None) for severity in severities)
    return dict(corruptions.run(Bright(), sets))


def greys(*levels: int) -> Tensor:
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 32, 32)


def test_errors_by_hand() -> None:
    """Brightness adds 12.75 to 76.5 levels, so that 120 is bright at once, 100 from the third severity on, 30 never."""
    found = measured(greys(120, 100, 30, 200), torch.tensor([0, 0, 0, 1]))
    brightness = [found[f"corruption_error/brightness/{severity}"] for severity in range(1, 6)]
    assert brightness == [25, 25, 50, 50, 50]
    assert found["corruption_error/brightness"] == pytest.approx(40)
    assert found["corruption_error/contrast"] == 0
    by_name = [found[f"corruption_error/{name}"] for name in corruptions.names(None)]
    assert found["mean_corruption_error"] == pytest.approx(sum(by_name) / 15)
    assert found["corruption_top1"] == pytest.approx(100 - found["mean_corruption_error"])
    assert len(found) == 15 * 5 + 15 + 2


def test_batches_do_not_matter() -> None:
    images = torch.randint(100, 156, (7, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = torch.arange(7) % 2
    assert measured(images, labels, 2, severities=(5,)) == measured(images, labels, 7, severities=(5,))


def test_nothing_to_measure_and_wrong_labels_are_told() -> None:
    with pytest.raises(DataError, match="0 images"):
        dict(corruptions.run(Bright(), []))
    with pytest.raises(LabelError, match="label 2"):
        measured(greys(10, 20), torch.tensor([0, 2]))
    with pytest.raises(ValidationError, match="severities"):
        Corruptions(severities=())
