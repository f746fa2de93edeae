"""The loop: the same bits twice, a validation curve of the asked length, and an error that says where it diverged."""

import uuid
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from noisystudent_core.config import FitConfig, InputNoise, OptimizerConfig, PseudoLabelConfig
from noisystudent_core.errors import DeviceMemoryError, NonFiniteLossError
from noisystudent_core.events import Events, silent
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.training import loop
from noisystudent_core.training.step import TrainState
from tests.training.small import build, fit_config, labelled, pseudo_labelled, resident

NOISY: dict[str, Any] = {
    "noise": InputNoise(num_ops=2, magnitude=9, crop="translate", crop_padding_px=2, flip=False),
    "dropout": 0.3,
    "stochastic_depth": 0.3,
    "ema_decay": 0.9,
}
STUDENT = PseudoLabelConfig(unlabelled_ratio=2)


def run(
    config: FitConfig, events: Events = silent, validate: loop.Validate = lambda net: {}
) -> tuple[TrainState, loop.History]:
    state = loop.start(build(config), config)
    pseudo = None if config.pseudo_labels is None else pseudo_labelled()
    batches = resident(config, labelled(), pseudo)
    history = loop.fit(state, config, batches, 12, validate, events, Folder.at(f"memory://{uuid.uuid4().hex}"))
    return state, history


def weights(state: TrainState) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in state.ema.model.state_dict().items()}


@pytest.mark.parametrize("pseudo_labels", [None, STUDENT])
def test_a_fit_is_bit_identical_twice_in_a_row(pseudo_labels: PseudoLabelConfig | None) -> None:
    config = fit_config(pseudo_labels=pseudo_labels, **NOISY)
    (first, first_history), (second, second_history) = run(config), run(config)
    assert weights(first) == weights(second)
    assert first_history == second_history
    other, _ = run(config.model_copy(update={"seed": 1}))
    assert weights(other) != weights(first)


def test_noise_is_no_matter_of_what_was_drawn_before() -> None:
    config = fit_config(pseudo_labels=STUDENT, **NOISY)
    first, _ = run(config)

    def draw(net: nn.Module) -> dict[str, float]:
        return {"validation/top1": torch.rand(()).item()}

    second, _ = run(
        config.model_copy(update={"train": config.train.model_copy(update={"num_validations": 4})}), silent, draw
    )
    assert weights(first) == weights(second)


def test_loss_falls_over_a_fit() -> None:
    _, history = run(fit_config(steps=30, pseudo_labels=STUDENT))
    losses = [value for _, name, value in history.rows if name == "train/loss_labelled"]
    assert len(losses) == 30
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


@pytest.mark.parametrize(
    ("num_steps", "num_validations", "at"),
    [(10, 1, [10]), (10, 2, [5, 10]), (10, 4, [2, 5, 8, 10]), (3, 3, [1, 2, 3]), (2, 10, [1, 2])],
)
def test_validation_curve_ends_with_the_fit(num_steps: int, num_validations: int, at: list[int]) -> None:
    validated: list[bool] = []

    def validate(net: nn.Module) -> dict[str, float]:
        validated.append(net.training)
        return {"validation/top1": float(len(validated))}

    config = fit_config(steps=num_steps, num_validations=num_validations, log_every_steps=100)
    _, history = run(config, silent, validate)
    assert [step for step, name, _ in history.rows if name == "validation/top1"] == at
    assert history.last("validation/top1") == len(at)
    assert not any(validated)  # the averaged net, in eval mode


def test_what_is_reported() -> None:
    told: list[tuple[str, dict[str, Any]]] = []

    def events(event: str, **fields: Any) -> None:
        told.append((event, fields))

    state, history = run(fit_config(steps=5, log_every_steps=2, pseudo_labels=STUDENT), events)
    metrics = [fields for event, fields in told if event == "metrics"]
    assert [fields["step"] for fields in metrics] == [2, 4, 5]
    assert history.rows == [(m["step"], name, value) for m in metrics for name, value in m["values"].items()]
    assert history.names() == ["train/learning_rate", "train/loss", "train/loss_labelled", "train/loss_unlabelled"]
    progress = [(fields["done"], fields["total"], fields["unit"]) for event, fields in told if event == "progress"]
    assert progress == [(2, 5, "steps"), (4, 5, "steps"), (5, 5, "steps")]
    assert state.step == 5


def test_a_fit_on_labelled_images_alone_reports_no_unlabelled_loss() -> None:
    _, history = run(fit_config(steps=1))
    assert history.names() == ["train/learning_rate", "train/loss", "train/loss_labelled"]
    assert history.last("train/loss_unlabelled") is None


def test_finished_state_takes_no_step_more() -> None:
    config = fit_config()
    state, _ = run(config)
    before = weights(state)
    batches, folder = resident(config, labelled(), None), Folder.at(f"memory://{uuid.uuid4().hex}")
    history = loop.fit(state, config, batches, 12, lambda net: {}, silent, folder)
    assert (history.rows, weights(state)) == ([], before)


def test_divergence_names_step_and_learning_rate() -> None:
    huge = OptimizerConfig(name="sgd", learning_rate=1e30, learning_rate_batch=4, weight_decay=0)
    with pytest.raises(
        NonFiniteLossError, match=r"loss is nan at step [12], learning rate [0-9.]+e\+\d\d: must be"
    ) as e:
        run(fit_config(optimizer=huge, steps=8))
    assert "lower train.optimizer.learning_rate" in str(e.value)


def test_divergence_between_reports_is_named_by_its_own_step() -> None:
    huge = OptimizerConfig(name="sgd", learning_rate=1e30, learning_rate_batch=4, weight_decay=0)
    with pytest.raises(NonFiniteLossError, match=r"at step [12],"):
        run(fit_config(optimizer=huge, steps=8, log_every_steps=100))


def test_overfitting_one_batch_shows_the_same_images_every_step() -> None:
    noise = InputNoise(num_ops=0, crop="translate", crop_padding_px=8, flip=True)
    config = fit_config(steps=25, pseudo_labels=STUDENT, noise=noise)
    _, history = run(config.model_copy(update={"overfit_one_batch": True}))
    losses = [value for _, name, value in history.rows if name == "train/loss_labelled"]
    assert losses[-1] < 0.1 * losses[0]
    assert all(later < earlier + 0.05 for earlier, later in pairwise(losses[4:]))


def test_a_step_too_large_for_the_memory_names_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(loop, "train_step", full)
    config = fit_config(pseudo_labels=STUDENT)
    with pytest.raises(DeviceMemoryError, match=r"12 images of 32 px does not fit .* set train\.micro_batches=2"):
        run(config)


def test_compiled_fit_takes_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []

    def traced(net: nn.Module) -> Any:
        compiled.append(net)
        return compile_(net, backend="aot_eager")  # all of it but the compiler, which not every machine has

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", traced)
    settings = {**NOISY, "noise": InputNoise(num_ops=0, flip=False, crop="none"), "steps": 3}
    plain, plain_history = run(fit_config(pseudo_labels=STUDENT, **settings))
    state, history = run(fit_config(pseudo_labels=STUDENT, compile=True, **settings))
    assert compiled == [state.net]
    for (_, name, ours), (_, other, theirs) in zip(history.rows, plain_history.rows, strict=True):
        assert name == other and ours == pytest.approx(theirs, rel=1e-3)
    assert state.net.state_dict().keys() == plain.net.state_dict().keys()
