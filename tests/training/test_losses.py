"""The losses against numbers worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from noisystudent_core.training.losses import Weighting, harden, labelled_loss, sharpen, soft_loss, weigh

A = math.log(1 + math.exp(-2))  # 0.126928: cross entropy of logits (2, 0) at class 0; at class 1 it is 2 more


def close(found: Tensor, expected: float | list[float]) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("smoothing", "expected"),
    [
        (0.0, (0.126928 + 0.693147) / 2),
        (0.1, (0.95 * 0.126928 + 0.05 * 2.126928 + 0.693147) / 2),
    ],
)
def test_cross_entropy_with_label_smoothing(smoothing: float, expected: float) -> None:
    logits, labels = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
    close(labelled_loss(logits, labels, smoothing), expected)


def test_soft_targets_take_plain_cross_entropy() -> None:
    close(soft_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.25, 0.75]])), 0.25 * A + 0.75 * (A + 2))


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [("concat_mean", 1.75), ("sum_of_means", 3.0), ("per_labelled", 7), ("unlabelled_only", 2)],
)
def test_weightings_of_one_and_two_at_ratio_three(weighting: Weighting, expected: float) -> None:
    close(weigh(torch.tensor(1.0), torch.tensor(2.0), 3.0, weighting), float(expected))


def test_concat_mean_is_the_mean_over_the_concatenated_batch() -> None:
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.randn(8, 3, generator=torch.Generator().manual_seed(1)).softmax(1)
    weighed = weigh(soft_loss(logits[:2], targets[:2]), soft_loss(logits[2:], targets[2:]), 3.0, "concat_mean")
    torch.testing.assert_close(weighed, soft_loss(logits, targets))


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        (0.5, [0.666667, 0.166667, 0.166667]),  # squares 0.25, 0.0625, 0.0625 over 0.375
        (1.0, [0.5, 0.25, 0.25]),
        (2.0, [0.414214, 0.292893, 0.292893]),  # roots 0.707107, 0.5, 0.5 over 1.707107
    ],
)
def test_temperature_is_a_power_renormalised(temperature: float, expected: list[float]) -> None:
    close(sharpen(torch.tensor([[0.5, 0.25, 0.25]]), temperature)[0], expected)


def test_what_float16_rounded_is_renormalised() -> None:
    stored = torch.full((1, 1000), 0.001).half().float()
    assert stored.sum() != 1
    close(sharpen(stored, 1.0).sum(), 1.0)


@pytest.mark.parametrize(("smoothing", "expected"), [(0.0, [0.0, 1.0, 0.0]), (0.1, [0.033333, 0.933333, 0.033333])])
def test_hard_labels_are_one_hot_and_smoothed_like_true_ones(smoothing: float, expected: list[float]) -> None:
    close(harden(torch.tensor([[0.2, 0.5, 0.3]]), smoothing)[0], expected)
