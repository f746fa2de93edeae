"""The loop around the step: it schedules, reports and validates, and computes nothing itself."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from noisystudent_core.config.settings import FitConfig
from noisystudent_core.data.mixing import derive
from noisystudent_core.errors import NonFiniteLossError
from noisystudent_core.events import Events
from noisystudent_core.models.architectures import Normalised
from noisystudent_core.training.batches import Batches
from noisystudent_core.training.ema import EMA
from noisystudent_core.training.optimizer import create_optimizer
from noisystudent_core.training.schedule import learning_rate
from noisystudent_core.training.step import Losses, TrainState, train_step

Validate = Callable[[nn.Module], dict[str, float]]  # a net taking uint8 images -> metrics


@dataclass
class History:
    """Every number reported while fitting: (step, metric, value)."""

    rows: list[tuple[int, str, float]] = field(default_factory=list)

    def add(self, step: int, values: dict[str, float]) -> None:
        """Append the values of one step."""
        self.rows += [(step, name, value) for name, value in values.items()]

    def names(self) -> list[str]:
        """The metrics reported at least once, in name order."""
        return sorted({name for _, name, _ in self.rows})

    def last(self, metric: str) -> float | None:
        """The metric's most recent value."""
        return next((value for _, name, value in reversed(self.rows) if name == metric), None)


def start(net: Normalised, config: FitConfig) -> TrainState:
    """The state before the first step."""
    optimizer = create_optimizer(net.net, config.train.optimizer)  # timm's net knows its layers, the frame does not
    return TrainState(net=net.train(), ema=EMA(net, config.train.ema_decay), optimizer=optimizer)


def fit(
    state: TrainState, config: FitConfig, batches: Batches, num_labelled: int, validate: Validate, events: Events
) -> History:
    """Run every remaining step; the averaged weights are validated `num_validations` times, at the end for the last.

    Raises `NonFiniteLossError` naming step and learning rate.
    """
    train, history = config.train, History()
    num_steps = train.num_steps(num_labelled)
    validations = {round(num_steps * (i + 1) / train.num_validations) for i in range(train.num_validations)}
    while state.step < num_steps:
        step = state.step
        rate = learning_rate(train, step, num_labelled)
        torch.manual_seed(derive(config.seed, "dropout", step))  # model noise, too, is a function of seed and step
        losses = train_step(state, batches(step), train, rate)
        values: dict[str, float] = {}
        if state.step % train.log_every_steps == 0 or state.step == num_steps:
            values |= _values(losses, rate, step)
            events("progress", done=state.step, total=num_steps, unit="steps")
        if state.step in validations:
            values |= validate(state.ema.model)
        if values:
            history.add(state.step, values)
            events("metrics", step=state.step, values=values)
    return history


def _values(losses: Losses, rate: float, step: int) -> dict[str, float]:
    """Read the losses back from the device, the one wait of a step, and refuse to go on where they diverged."""
    total = losses.total.item()
    if not torch.isfinite(losses.total):
        raise NonFiniteLossError(
            f"loss is {total} at step {step}, learning rate {rate:.3g}: must be finite; "
            "lower train.optimizer.learning_rate or lengthen train.warmup_epochs"
        )
    values = {"train/loss": total, "train/loss_labelled": losses.labelled.item(), "train/learning_rate": rate}
    if losses.unlabelled is not None:
        values["train/loss_unlabelled"] = losses.unlabelled.item()
    return values
