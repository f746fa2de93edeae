"""Accuracies of logits made by hand."""

import math

import pytest
import torch
from torch import Tensor, nn

from noisystudent_core.evaluation import accuracy


class Table(nn.Module):
    """A net that knows its answers: an image's first pixel is the row of the logits."""

    def __init__(self, logits: list[list[float]]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits[images[:, 0, 0, 0].long()]


def measure(logits: list[list[float]], labels: list[int], batch_size: int = 2) -> dict[str, float]:
    images = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1)
    batches = zip(images.split(batch_size), torch.tensor(labels).split(batch_size), strict=True)
    return dict(accuracy.run(Table(logits), batches))


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


def test_no_images_yield_nothing() -> None:
    assert dict(accuracy.run(Table([[0.0]]), [])) == {}
