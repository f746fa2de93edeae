"""One optimiser step: (state, batch) -> losses."""

from dataclasses import dataclass

import torch
from torch import Tensor

from noisystudent_core.config.settings import TrainConfig
from noisystudent_core.models.architectures import Normalised
from noisystudent_core.noise.model_noise import noise_first_rows
from noisystudent_core.training.ema import EMA
from noisystudent_core.training.losses import labelled_loss, soft_loss, weigh
from noisystudent_core.training.optimizer import set_learning_rate


@dataclass
class TrainState:
    """Everything that changes while a model is fitted; `step` counts finished steps."""

    net: Normalised
    ema: EMA
    optimizer: torch.optim.Optimizer
    step: int = 0


@dataclass(frozen=True)
class Batch:
    """A step's images, noised: uint8 [L + U, 3, S, S], labels int64 [L], and targets float32 [U, C] where U > 0.

    Model noise acts on the first `num_noised` images, on all where that is None.
    """

    images: Tensor
    labels_L: Tensor
    targets_UC: Tensor | None
    num_noised: int | None = None


@dataclass(frozen=True)
class Losses:
    """Scalars still on the device; `unlabelled` is None in a fit on labelled images alone."""

    total: Tensor
    labelled: Tensor
    unlabelled: Tensor | None


def train_step(state: TrainState, batch: Batch, train: TrainConfig, learning_rate: float) -> Losses:
    """Forward over labelled and unlabelled images together (joint batch-norm statistics), backward, update, average."""
    noise_first_rows(state.net, batch.num_noised, len(batch.images))
    losses = compute_losses(state.net(batch.images), batch, train)
    losses.total.backward()
    set_learning_rate(state.optimizer, learning_rate)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.ema.update(state.step)
    state.step += 1
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
