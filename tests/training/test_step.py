"""One step: joint batch norm, losses apart, one update, and learning that shows on a batch seen again and again."""

import copy
from typing import Any

import pytest
import torch

from noisystudent_core.config import OptimizerConfig, PseudoLabelConfig
from noisystudent_core.noise.noise_layers import StochasticDepth
from noisystudent_core.training import loop
from noisystudent_core.training.losses import Weighting
from noisystudent_core.training.step import Batch, TrainState, compute_losses, train_step, uses_bf16
from tests.training.small import build, fit_config, labelled, pseudo_labelled, resident, same_weights

STUDENT = fit_config(pseudo_labels=PseudoLabelConfig(unlabelled_ratio=3), label_smoothing=0.1)


def start() -> tuple[TrainState, Batch]:
    return loop.start(build(STUDENT), STUDENT), resident(STUDENT, labelled(), pseudo_labelled())(0)


def test_step_moves_the_weights_against_the_gradient_once() -> None:
    state, batch = start()
    train = STUDENT.train.model_copy(update={"optimizer": OptimizerConfig(name="sgd", momentum=0, weight_decay=0)})
    state = loop.start(state.net, STUDENT.model_copy(update={"train": train}))
    twin = copy.deepcopy(state.net)
    compute_losses(twin(batch.images), batch, train).total.backward()
    train_step(state, batch, train, 0.5)
    for moved, before in zip(state.net.parameters(), twin.parameters(), strict=True):
        assert before.grad is not None
        torch.testing.assert_close(moved, before - 0.5 * before.grad, rtol=1e-4, atol=1e-6)
        assert moved.grad is None
    assert state.step == 1


def test_batch_norm_sees_labelled_and_unlabelled_images_together() -> None:
    state, batch = start()
    first = state.net.get_submodule("net.conv1.0")
    seen = []
    first.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    train_step(state, batch, STUDENT.train, 0.1)
    (features,) = seen  # one forward pass
    assert len(features) == 4 + 12
    statistics = state.net.state_dict()["net.conv1.1.running_mean"]
    torch.testing.assert_close(statistics, 0.1 * features.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)


def test_average_follows_each_step() -> None:
    state, batch = start()
    train_step(state, batch, STUDENT.train, 0.1)  # ema_decay 0: the live weights
    assert same_weights(state.ema.model, state.net)


@pytest.mark.parametrize("weighting", ["concat_mean", "sum_of_means", "per_labelled"])
def test_losses_are_reported_apart_and_weighed_as_told(weighting: Weighting) -> None:
    state, batch = start()
    logits = state.net(batch.images)
    losses = compute_losses(logits, batch, STUDENT.train.model_copy(update={"loss_weighting": weighting}))
    log_p = logits.log_softmax(1)
    smoothed = torch.full((4, 3), 0.1 / 3).scatter(1, batch.labels_L[:, None], 0.9 + 0.1 / 3)
    assert batch.targets_UC is not None and losses.unlabelled is not None
    labelled_mean = -(smoothed * log_p[:4]).sum(1).mean()
    unlabelled_mean = -(batch.targets_UC * log_p[4:]).sum(1).mean()  # soft labels: no smoothing
    torch.testing.assert_close(losses.labelled, labelled_mean)
    torch.testing.assert_close(losses.unlabelled, unlabelled_mean)
    a, b = {"concat_mean": (0.25, 0.75), "sum_of_means": (1, 1), "per_labelled": (1, 3)}[weighting]
    torch.testing.assert_close(losses.total, a * labelled_mean + b * unlabelled_mean)


def test_fit_on_labelled_images_alone_has_one_loss() -> None:
    config = fit_config()
    losses = train_step(loop.start(build(config), config), resident(config, labelled(), None)(0), config.train, 0.1)
    assert losses.unlabelled is None
    assert losses.total is losses.labelled


def test_loss_falls_on_one_batch_seen_again_and_again() -> None:
    state, batch = start()
    losses = [train_step(state, batch, STUDENT.train, 0.05).total.item() for _ in range(15)]
    floor = (0.25 * 0.2911) + (0.75 * 0.6390)  # entropies of the smoothed and of the teacher's targets
    assert losses[0] > 1.0
    assert floor - 0.01 < losses[-1] < 0.75


def test_model_noise_kept_to_labelled_images_spares_the_others_in_the_same_forward_pass() -> None:
    config = fit_config(
        pseudo_labels=PseudoLabelConfig(unlabelled_ratio=3, model_noise=False), dropout=0.9, stochastic_depth=0.5
    )
    state, batches = loop.start(build(config), config), resident(config, labelled(), pseudo_labelled())
    for name, parameter in state.net.named_parameters():
        if name.endswith("bn2.weight"):
            torch.nn.init.ones_(parameter)  # 0 at first: a branch of zeros cannot be seen to be dropped
    factors_B, features = [], []  # of the last branch; before and after dropout
    depth = [module for module in state.net.modules() if isinstance(module, StochasticDepth)][-1]
    depth.register_forward_hook(lambda _, inputs, output: factors_B.append(size_of(output) / size_of(inputs[0])))
    classifier = state.net.get_submodule("net.fc")
    classifier.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]), prepend=True)
    classifier.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    for step in range(4):
        train_step(state, batches(step), config.train, 0.01)
        whole, dropped = features[-2:]
        assert len(whole) == 16
        assert torch.equal(dropped[4:], whole[4:])
        assert ((dropped[:4] == 0) & (whole[:4] != 0)).any(1).all()
    assert all((found[4:] == 1).all() for found in factors_B)
    assert set(torch.stack(factors_B)[:, :4].round(decimals=3).flatten().tolist()) == {0.0, 2.0}


def size_of(rows: torch.Tensor) -> torch.Tensor:
    return rows.detach().flatten(1).abs().sum(1)


def gradient_step(state: TrainState, batch: Batch, **train: Any) -> dict[str, torch.Tensor]:
    """The weights after one plain step of gradient descent."""
    plain = OptimizerConfig(name="sgd", momentum=0, weight_decay=0)
    settings = STUDENT.train.model_copy(update={"optimizer": plain, **train})
    state = loop.start(copy.deepcopy(state.net), STUDENT.model_copy(update={"train": settings}))
    train_step(state, batch, settings, 0.5)
    return {name: parameter.detach() for name, parameter in state.net.named_parameters()}


@pytest.mark.parametrize("weighting", ["concat_mean", "sum_of_means", "per_labelled"])
def test_micro_batches_keep_the_ratio_and_add_up_to_the_whole_batch(weighting: Weighting) -> None:
    model = STUDENT.model.model_copy(update={"name": "test_convnext"})  # without batch norm
    config = STUDENT.model_copy(update={"model": model})
    state = loop.start(build(config), config)
    batch = resident(config, labelled(), pseudo_labelled())(0)
    for part in batch.micro_batches(4):
        assert part.targets_UC is not None
        assert (len(part.labels_L), len(part.targets_UC), len(part.images)) == (1, 3, 4)
    whole = gradient_step(state, batch, loss_weighting=weighting)
    for number in (2, 4):
        parts = gradient_step(state, batch, loss_weighting=weighting, micro_batches=number)
        for name, weight in whole.items():
            torch.testing.assert_close(parts[name], weight, rtol=1e-4, atol=1e-5)


def test_micro_batches_report_the_losses_of_the_whole_batch() -> None:
    config = STUDENT.model_copy(update={"model": STUDENT.model.model_copy(update={"name": "test_convnext"})})
    batch = resident(config, labelled(), pseudo_labelled())(0)
    found = []
    for number in (1, 2):
        train = config.train.model_copy(update={"micro_batches": number})
        found.append(train_step(loop.start(build(config), config), batch, train, 0.1))
    one, two = found
    assert one.unlabelled is not None and two.unlabelled is not None
    torch.testing.assert_close(two.total, one.total)
    torch.testing.assert_close(two.labelled, one.labelled)
    torch.testing.assert_close(two.unlabelled, one.unlabelled)


def test_micro_batches_keep_model_noise_to_their_own_labelled_images() -> None:
    batch = Batch(torch.zeros(16, 3, 8, 8, dtype=torch.uint8), torch.zeros(4).long(), torch.zeros(12, 3), 4)
    assert [part.num_noised for part in batch.micro_batches(2)] == [2, 2]


def test_split_batch_norm_takes_the_statistics_of_each_kind_apart() -> None:
    state, batch = start()
    seen = []
    state.net.get_submodule("net.conv1.0").register_forward_hook(
        lambda module, inputs, output: seen.append(len(output))
    )
    train_step(state, batch, STUDENT.train.model_copy(update={"batch_norm": "split"}), 0.1)
    assert seen == [4, 12]


def test_gradient_is_cut_to_its_norm() -> None:
    state, batch = start()
    before = {name: parameter.detach().clone() for name, parameter in state.net.named_parameters()}

    def moved(**train: Any) -> float:
        after = gradient_step(state, batch, **train)
        return sum(((after[name] - before[name]) ** 2).sum().item() for name in before) ** 0.5

    assert moved() > 0.5 * 0.02
    assert moved(clip_norm=0.02) == pytest.approx(0.5 * 0.02, rel=1e-3)


def test_bf16_computes_near_float32_and_keeps_float32_weights() -> None:
    state, batch = start()
    train = STUDENT.train.model_copy(update={"precision": "bf16"})
    exact = compute_losses(copy.deepcopy(state.net)(batch.images), batch, train).total.item()
    losses = train_step(state, batch, train, 0.1)
    assert losses.total.dtype == torch.float32
    assert 0 < abs(losses.total.item() - exact) < 0.05
    assert {parameter.dtype for parameter in state.net.parameters()} == {torch.float32}


def test_bf16_by_default_on_a_gpu_alone() -> None:
    train = STUDENT.train
    assert uses_bf16(train, torch.device("cuda")) and not uses_bf16(train, torch.device("cpu"))
    assert not uses_bf16(train.model_copy(update={"precision": "float32"}), torch.device("cuda"))
