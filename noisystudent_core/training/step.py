"""One optimiser step: (state, batch) -> losses. Nothing in it waits for the device."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from noisystudent_core.config.settings import TrainConfig
from noisystudent_core.models.architectures import Normalised
from noisystudent_core.noise.model_noise import noise_first_rows
from noisystudent_core.training.ema import EMA
from noisystudent_core.training.losses import labelled_loss, soft_loss, weigh
from noisystudent_core.training.optimizer import set_learning_rate


@dataclass
class TrainState:
    """Everything that changes while a model is fitted; `step` counts finished steps.

    `forward` is the net as it is run: the net itself, compiled, or one of several processes'. In a block of `apart`
    gradients are added up by each process for itself.
    """

    net: Normalised
    ema: EMA
    optimizer: torch.optim.Optimizer
    step: int = 0
    forward: Callable[[Tensor], Tensor] = field(init=False)
    apart: Callable[[], AbstractContextManager[None]] = nullcontext

    def __post_init__(self) -> None:
        self.forward = self.net


@dataclass(frozen=True)
class Batch:
    """A step's images, noised: uint8 [L + U, 3, S, S], labels int64 [L], and targets float32 [U, C] where U > 0.

    Model noise acts on the first `num_noised` images, on all where that is None.
    """

    images: Tensor
    labels_L: Tensor
    targets_UC: Tensor | None
    num_noised: int | None = None

    def micro_batches(self, number: int) -> list["Batch"]:
        """Equal shares, each with labelled and unlabelled images at the ratio of the whole; L and U divide by it."""
        if number == 1:
            return [self]
        num_labelled = len(self.labels_L)
        labelled = self.images[:num_labelled].chunk(number)
        labels = self.labels_L.chunk(number)
        if self.targets_UC is None:
            return [Batch(*share, None) for share in zip(labelled, labels, strict=True)]
        unlabelled, targets = self.images[num_labelled:].chunk(number), self.targets_UC.chunk(number)
        num_noised = None if self.num_noised is None else self.num_noised // number
        return [
            Batch(torch.cat([labelled_images, unlabelled_images]), labels_M, targets_M, num_noised)
            for labelled_images, unlabelled_images, labels_M, targets_M in zip(
                labelled, unlabelled, labels, targets, strict=True
            )
        ]


@dataclass(frozen=True)
class Losses:
    """Scalars still on the device; `unlabelled` is None in a fit on labelled images alone."""

    total: Tensor
    labelled: Tensor
    unlabelled: Tensor | None


def train_step(state: TrainState, batch: Batch, train: TrainConfig, learning_rate: float) -> Losses:
    """Forward over labelled and unlabelled images together, backward, update, average.

    With micro-batches gradients add up to the whole batch's, processes exchange them once, with the last; batch norm
    then takes its statistics of each.
    """
    *parts, last = batch.micro_batches(train.micro_batches)
    found = []
    for part in parts:
        with state.apart():
            found.append(_add_gradient(state, part, train))
    found.append(_add_gradient(state, last, train))
    if train.clip_norm is not None:
        nn.utils.clip_grad_norm_(state.net.parameters(), train.clip_norm)
    set_learning_rate(state.optimizer, learning_rate)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.ema.update(state.step)
    state.step += 1
    return found[0] if len(found) == 1 else _mean(found)


def _add_gradient(state: TrainState, part: Batch, train: TrainConfig) -> Losses:
    """Add a micro-batch's share to the gradient of the step."""
    device = part.images.device
    with torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(train, device)):
        logits = _logits(state, part, train)
    losses = compute_losses(logits.float(), part, train)
    (losses.total / train.micro_batches).backward()
    return losses


def compute_losses(logits: Tensor, batch: Batch, train: TrainConfig) -> Losses:
    """The losses of a batch's logits [L + U, C], weighed as `train.loss_weighting` says."""
    num_labelled = len(batch.labels_L)
    labelled = labelled_loss(logits[:num_labelled], batch.labels_L, train.label_smoothing)
    if batch.targets_UC is None:
        return Losses(labelled, labelled, None)
    unlabelled = soft_loss(logits[num_labelled:], batch.targets_UC)
    ratio = len(batch.targets_UC) / num_labelled
    return Losses(weigh(labelled, unlabelled, ratio, train.loss_weighting), labelled, unlabelled)


def uses_bf16(train: TrainConfig, device: torch.device) -> bool:
    """Whether a fit on this device computes in bfloat16, its weights staying float32."""
    return train.precision == "bf16" or (train.precision == "auto" and device.type == "cuda")


def _logits(state: TrainState, batch: Batch, train: TrainConfig) -> Tensor:
    """Logits [L + U, C], batch norm's statistics over all images (paper section 3.1) or over each kind apart."""
    if train.batch_norm == "joint" or batch.targets_UC is None:
        noise_first_rows(state.net, batch.num_noised, len(batch.images))
        return state.forward(batch.images)
    labelled, unlabelled = batch.images.split([len(batch.labels_L), len(batch.targets_UC)])
    noise_first_rows(state.net, None, len(labelled))
    logits_LC = state.forward(labelled)
    noise_first_rows(state.net, None if batch.num_noised is None else 0, len(unlabelled))
    return torch.cat([logits_LC, state.forward(unlabelled)])


def _mean(found: list[Losses]) -> Losses:
    """The losses of a whole batch from those of its equal shares."""
    total = torch.stack([losses.total.detach() for losses in found]).mean()
    labelled = torch.stack([losses.labelled.detach() for losses in found]).mean()
    unlabelled = [losses.unlabelled.detach() for losses in found if losses.unlabelled is not None]
    return Losses(total, labelled, torch.stack(unlabelled).mean() if unlabelled else None)
