"""From two streams of images to the noised batch of a step."""

import torch
from torch import Tensor

from noisystudent_core.config.settings import FitConfig
from noisystudent_core.data.mixing import image_seeds
from noisystudent_core.data.streams import Share, Stream
from noisystudent_core.noise.input_noise import InputNoiser
from noisystudent_core.training.losses import harden, sharpen
from noisystudent_core.training.step import Batch

Seen = tuple[Tensor, Tensor]  # images as the model sees them, uint8 [N, 3, S, S], and what is known of them


class Batches:
    """`batches(step)` joins and noises a step's images; the same for equal seeds and steps on any machine."""

    def __init__(
        self, config: FitConfig, labelled: Stream, unlabelled: Stream | None, share: Share | None = None
    ) -> None:
        self._config, self._share = config, share or Share()
        self._labelled, self._unlabelled = labelled, unlabelled
        self._num_labelled, self._num_unlabelled = config.images_per_step
        self._noiser = self._pseudo_noiser = InputNoiser(config.noise, config.model.resolution_px)
        if config.pseudo_labels is not None and config.pseudo_labels.noise is not None:
            self._pseudo_noiser = InputNoiser(config.pseudo_labels.noise, config.model.resolution_px)

    def __call__(self, step: int) -> Batch:
        """This process's share of the batch of step `step`, counted from 0."""
        images, labels = self._labelled.batch(step)
        seeds_L, seeds_U = self._seeds(step)
        if self._unlabelled is None or self._config.pseudo_labels is None:
            return Batch(self._noiser(images, seeds_L), labels, None)
        unlabelled, probabilities = self._unlabelled.batch(step)
        noised = self._noised(images, unlabelled, seeds_L, seeds_U)
        num_noised = None if self._config.pseudo_labels.model_noise else len(labels)
        return Batch(noised, labels, targets(self._config, probabilities), num_noised)

    def untouched(self) -> Tensor:
        """The first labelled image of step 0 without noise, uint8 [1, 3, R, R]."""
        return self._labelled.batch(0)[0][:1]

    def first(self, num_labelled: int, num_unlabelled: int) -> tuple[Seen, Seen | None]:
        """The first labelled and pseudo-labelled images of step 0, noised at no more work than they are worth."""
        images, labels = (found[:num_labelled] for found in self._labelled.batch(0))
        seeds_L, seeds_U = self._seeds(0)
        seen = self._noiser(images, seeds_L[: len(images)]), labels
        if self._unlabelled is None:
            return seen, None
        images, probabilities = (found[:num_unlabelled] for found in self._unlabelled.batch(0))
        return seen, (self._pseudo_noiser(images, seeds_U[: len(images)]), probabilities)

    def _noised(self, labelled: Tensor, unlabelled: Tensor, seeds_L: Tensor, seeds_U: Tensor) -> Tensor:
        """Both kinds of images in one batch, each noised as its kind is and by its place there."""
        if self._pseudo_noiser is self._noiser:
            return self._noiser(torch.cat([labelled, unlabelled]), torch.cat([seeds_L, seeds_U]))
        return torch.cat([self._noiser(labelled, seeds_L), self._pseudo_noiser(unlabelled, seeds_U)])

    def _seeds(self, step: int) -> tuple[Tensor, Tensor]:
        """A seed for each image of this process's share, by its place in the whole batch; on the host, as draws are."""
        seeds = image_seeds(self._config.seed, step, self._num_labelled + self._num_unlabelled)
        labelled, unlabelled = seeds.split([self._num_labelled, self._num_unlabelled])
        return self._share.of(labelled), self._share.of(unlabelled)


def targets(config: FitConfig, probabilities: Tensor) -> Tensor:
    """What a student learns of its teacher's distributions float32 [U, C]: soft or hard labels."""
    assert config.pseudo_labels is not None
    if config.pseudo_labels.labels == "hard":
        return harden(probabilities, config.train.label_smoothing)
    return sharpen(probabilities, config.pseudo_labels.temperature)
