"""The loop around the step: it schedules, reports, validates and saves, and computes nothing itself."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from noisystudent_core.config.settings import FitConfig, TrainConfig
from noisystudent_core.errors import DeviceMemoryError, InterruptedFitError, NonFiniteLossError
from noisystudent_core.events import Events
from noisystudent_core.models.architectures import Normalised
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.training.batches import Batches
from noisystudent_core.training.distributed import ALONE, Group
from noisystudent_core.training.ema import EMA
from noisystudent_core.training.history import History
from noisystudent_core.training.optimizer import create_optimizer
from noisystudent_core.training.schedule import learning_rate
from noisystudent_core.training.state import resume, save_state
from noisystudent_core.training.step import Batch, Losses, TrainState, train_step

Validate = Callable[[nn.Module], dict[str, float]]  # a net taking uint8 images -> metrics


def start(net: Normalised, config: FitConfig, group: Group = ALONE) -> TrainState:
    """The state before the first step."""
    net = group.synchronised(net, config.train)
    optimizer = create_optimizer(net.net, config.train.optimizer)  # timm's net knows its layers, the frame does not
    state = TrainState(net=net.train(), ema=EMA(net, config.train.ema_decay), optimizer=optimizer)
    if config.train.compile:
        state.forward = torch.compile(net)
    return state


def fit(
    state: TrainState,
    config: FitConfig,
    batches: Batches,
    num_labelled: int,
    validate: Validate,
    events: Events,
    folder: Folder,
    group: Group = ALONE,
) -> History:
    """Run every remaining step, from the newest state in `folder` if there is one.

    The averaged weights are validated `num_validations` times, at the end for the last. States go to `folder`. Each
    process of `group` calls it with its own batches; losses are reported as their means over the processes. Raises
    `NonFiniteLossError` naming step, learning rate and last good state, `DeviceMemoryError` for a batch that is too
    large, and `InterruptedFitError` after a SIGTERM, when the state is saved.
    """
    train, history = config.train, History()
    saved = resume(state, history, config, folder, events, group)
    if saved is not None:
        events("message", text=f"going on after step {state.step}, from {saved}")
    num_steps = train.num_steps(num_labelled)
    validations = {round(num_steps * (i + 1) / train.num_validations) for i in range(train.num_validations)}
    watch = _Watch()
    _divide(state, train, group)
    with group.heeded() as asked_to_stop:
        while state.step < num_steps:
            step = state.step
            rate = learning_rate(train, step, num_labelled)
            torch.manual_seed(group.seed(config.seed, step))  # model noise, too, is a function of seed and step
            losses = _step(state, batches(0 if config.overfit_one_batch else step), train, rate)
            watch.note(losses.total, step, rate, saved)
            values: dict[str, float] = {}
            if state.step % train.log_every_steps == 0 or state.step == num_steps:
                watch.check(saved)
                values |= group.mean(_values(losses, rate))
                events("progress", done=state.step, total=num_steps, unit="steps")
            if state.step in validations:
                values |= validate(state.ema.model)
            if values:
                history.add(state.step, values)
                events("metrics", step=state.step, values=values)
            stopping = asked_to_stop()
            if state.step < num_steps and (stopping or state.step % config.execution.state_every_steps == 0):
                watch.check(saved)
                saved = save_state(state, history, config, folder, group)
                if stopping:
                    raise InterruptedFitError(f"asked to stop after step {state.step}, saved as {saved}; run it again")
    return history


def _divide(state: TrainState, train: TrainConfig, group: Group) -> None:
    """Have the net run by every process of the group, if there are others."""
    if group.host is not None:
        parallel = group.parallel(state.net)
        state.forward = torch.compile(parallel) if train.compile else parallel
        state.apart = parallel.no_sync


class _Watch:
    """Notices the first loss that is not finite; on a GPU it looks when the loop waits for the device anyway."""

    def __init__(self) -> None:
        self._noted: list[tuple[int, float, Tensor]] = []  # step, learning rate, loss; since the last check

    def note(self, loss: Tensor, step: int, rate: float, saved: str | None) -> None:
        """Remember the loss of a step; on a CPU, where it is there already, look at once."""
        self._noted.append((step, rate, loss.detach()))
        if loss.device.type == "cpu":
            self.check(saved)

    def check(self, saved: str | None) -> None:
        """Raise `NonFiniteLossError` for the first noted loss that is not finite."""
        losses = torch.stack([loss for _, _, loss in self._noted]).tolist() if self._noted else []
        for (step, rate, _), loss in zip(self._noted, losses, strict=True):
            if not math.isfinite(loss):
                raise NonFiniteLossError(
                    f"loss is {loss} at step {step}, learning rate {rate:.3g}: must be finite; lower "
                    "train.optimizer.learning_rate or lengthen train.warmup_epochs; the last good state is "
                    f"{saved or 'the start'}"
                )
        self._noted.clear()


def _step(state: TrainState, batch: Batch, train: TrainConfig, rate: float) -> Losses:
    try:
        return train_step(state, batch, train, rate)
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        num_images, _, size, _ = batch.images.shape
        raise DeviceMemoryError(
            f"a step of {num_images} images of {size} px does not fit into the memory of {batch.images.device}: set "
            f"train.micro_batches={2 * train.micro_batches}, or lower train.batch_size or the unlabelled ratio"
        ) from error


def _values(losses: Losses, rate: float) -> dict[str, float]:
    """Read the losses back from the device."""
    values = {"train/loss": losses.total.item(), "train/loss_labelled": losses.labelled.item()}
    values["train/learning_rate"] = rate
    if losses.unlabelled is not None:
        values["train/loss_unlabelled"] = losses.unlabelled.item()
    return values
