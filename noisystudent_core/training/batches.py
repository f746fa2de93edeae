"""From resident images to the noised batch of a step."""

from typing import NamedTuple

import torch
from torch import Tensor

from noisystudent_core.config.settings import FitConfig
from noisystudent_core.data.mixing import Order, image_seeds
from noisystudent_core.data.resident import LabelledImages, PseudoLabelledImages
from noisystudent_core.noise.input_noise import InputNoiser
from noisystudent_core.training.losses import harden, sharpen
from noisystudent_core.training.step import Batch


class Seen(NamedTuple):
    """Images as the model sees them, uint8 [N, 3, S, S], and their rows in the set they come from, int64 [N]."""

    images: Tensor
    rows: Tensor


class Batches:
    """`batches(step)` draws, joins and noises a step's images; the same for equal seeds and steps on any machine."""

    def __init__(self, config: FitConfig, labelled: LabelledImages, pseudo: PseudoLabelledImages | None) -> None:
        self._labelled, self._pseudo = labelled, pseudo
        self._noiser = self._pseudo_noiser = InputNoiser(config.noise, config.model.resolution_px)
        self._seed, self._num_noised = config.seed, None
        size = config.train.batch_size
        self._labelled_order = Order(len(labelled.labels), size, config.seed)
        if pseudo is not None and config.pseudo_labels is not None:
            self._targets = _targets(config, pseudo.probabilities)
            num_unlabelled = round(size * config.pseudo_labels.unlabelled_ratio)
            self._pseudo_order = Order(len(pseudo.images), num_unlabelled, config.seed + 1, pseudo.copies)
            self._num_noised = None if config.pseudo_labels.model_noise else size
            if config.pseudo_labels.noise is not None:
                self._pseudo_noiser = InputNoiser(config.pseudo_labels.noise, config.model.resolution_px)

    def __call__(self, step: int) -> Batch:
        """The batch of step `step`, counted from 0."""
        labelled = self._labelled_order.batch(step)
        images, labels = self._labelled.images[labelled], self._labelled.labels[labelled]
        if self._pseudo is None:
            return Batch(self._noiser(images, self._seeds(step, len(images))), labels, None)
        pseudo = self._pseudo_order.batch(step)
        images = self._noised(images, self._pseudo.images[pseudo], step)
        return Batch(images, labels, self._targets[pseudo], self._num_noised)

    def first(self, num_labelled: int, num_unlabelled: int) -> tuple[Seen, Seen | None]:
        """The first labelled and pseudo-labelled images of step 0, at no more work than they are worth."""
        labelled = self._labelled_order.batch(0)
        rows = labelled[:num_labelled]
        seen = Seen(self._noiser(self._labelled.images[rows], self._seeds(0, len(rows))), rows)
        if self._pseudo is None:
            return seen, None
        rows = self._pseudo_order.batch(0)[:num_unlabelled]
        seeds = self._seeds(0, len(labelled) + len(rows))[len(labelled) :]
        return seen, Seen(self._pseudo_noiser(self._pseudo.images[rows], seeds), rows)

    def _noised(self, labelled: Tensor, unlabelled: Tensor, step: int) -> Tensor:
        """Both kinds of images in one batch, each noised as its kind is and by its place there."""
        seeds = self._seeds(step, len(labelled) + len(unlabelled))
        if self._pseudo_noiser is self._noiser:
            return self._noiser(torch.cat([labelled, unlabelled]), seeds)
        seeds_L, seeds_U = seeds[: len(labelled)], seeds[len(labelled) :]
        return torch.cat([self._noiser(labelled, seeds_L), self._pseudo_noiser(unlabelled, seeds_U)])

    def _seeds(self, step: int, num_images: int) -> Tensor:
        return image_seeds(self._seed, step, num_images).to(self._labelled.images.device)


def _targets(config: FitConfig, probabilities: Tensor) -> Tensor:
    assert config.pseudo_labels is not None
    if config.pseudo_labels.labels == "hard":
        return harden(probabilities, config.train.label_smoothing)
    return sharpen(probabilities, config.pseudo_labels.temperature)
