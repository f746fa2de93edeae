"""Accuracies of logits made by hand."""

import math

import pytest
import torch

from noisystudent_core.errors import DataError, LabelError
from noisystudent_core.evaluation import accuracy
from tests.evaluation.tabled import Table, batches


def measure(logits: list[list[float]], labels: list[int], batch_size: int = 2) -> dict[str, float]:
    return dict(accuracy.run(Table(logits), batches(torch.tensor(labels), batch_size)))


SIX = [0.5, 0.4, 0.3, 0.2, 0.1, 0.0]  # classes in order of their score


def test_top1_and_top5_are_in_percent_over_all_batches() -> None:
    found = measure([SIX] * 5, [0, 0, 1, 4, 5])  # batches of 2, 2 and 1: each image counts once
    assert found["top1"] == pytest.approx(40.0)
    assert found["top5"] == pytest.approx(80.0)


@pytest.mark.parametrize(("num_classes", "metrics"), [(3, ["top1", "loss"]), (5, ["top1", "loss"])])
def test_top5_is_left_out_where_it_says_nothing(num_classes: int, metrics: list[str]) -> None:
    assert list(measure([SIX[:num_classes]], [1])) == metrics


def test_loss_is_the_mean_cross_entropy() -> None:
    found = measure([[0.0, 0.0], [0.0, math.log(3.0)], [0.0, 0.0]], [0, 1, 1])
    assert found["loss"] == pytest.approx((math.log(2) + math.log(4 / 3) + math.log(2)) / 3)


def test_a_tie_is_a_miss() -> None:
    assert measure([[0.0] * 7] * 2, [0, 6]) | {"loss": 0.0} == {"top1": 0.0, "top5": 0.0, "loss": 0.0}
    two_ahead_of_three_alike = [2.0, 1.0, 0.0, 0.0, 0.0, -1.0]
    assert measure([two_ahead_of_three_alike], [2])["top5"] == 100.0  # fifth at worst


def test_a_net_that_diverged_is_never_right() -> None:
    found = measure([[math.nan] * 7] * 2, [0, 3])
    assert (found["top1"], found["top5"]) == (0.0, 0.0)


def test_no_images_are_an_error() -> None:
    with pytest.raises(DataError, match=r"^0 images: there is nothing to measure; at least 1 must"):
        dict(accuracy.run(Table([[0.0]]), []))


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_out_of_range_are_named(label: int) -> None:
    with pytest.raises(LabelError, match=rf"^label {label}: must be 0 to 2, the classes of the net; give a model"):
        measure([SIX[:3]] * 2, [0, label])
