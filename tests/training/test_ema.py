"""The average of the weights: the reference's warm-up, and batch-norm statistics in it."""

import pytest
import torch
from torch import Tensor

from noisystudent_core.training.ema import EMA, ema_decay
from tests.training.small import build, fit_config, same_weights


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.1),
        (1, 2 / 11),
        (2, 0.25),
        (8, 0.5),
        (9, 10 / 19),
        (80, 0.9),
        (890, 0.99),
        (8990, 0.999),
        (89_990, 0.9999),
        (10**6, 0.9999),
    ],
)
def test_decay_warms_up_to_the_paper_s(step: int, expected: float) -> None:
    assert ema_decay(0.9999, step) == pytest.approx(expected, abs=1e-12)


def fill(tensor: Tensor, value: float) -> None:
    with torch.no_grad():
        tensor.fill_(value)


def test_weights_and_batch_norm_statistics_are_averaged_and_counters_copied() -> None:
    net = build(fit_config())
    ema = EMA(net, 0.9999)
    before, live = ema.model.state_dict(), net.state_dict()
    for name in ("net.fc.weight", "net.bn1.running_mean", "net.bn1.running_var"):
        fill(before[name], 0.0)
        fill(live[name], 1.0)
    live["net.bn1.num_batches_tracked"].fill_(7)
    ema.update(step=2)  # decay 0.25
    after = ema.model.state_dict()
    for name in ("net.fc.weight", "net.bn1.running_mean", "net.bn1.running_var"):
        torch.testing.assert_close(after[name], torch.full_like(after[name], 0.75))
    assert after["net.bn1.num_batches_tracked"] == 7


def test_average_is_for_evaluation_only() -> None:
    net = build(fit_config()).train()
    ema = EMA(net, 0.9)
    assert not any(module.training for module in ema.model.modules())
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())
    assert all(module.training for module in net.modules())


def test_decay_of_zero_keeps_the_live_weights() -> None:
    net = build(fit_config())
    ema = EMA(net, 0.0)
    fill(net.get_parameter("net.fc.weight"), 3.0)
    ema.update(step=5)
    assert same_weights(ema.model, net)
