"""From resident images to the noised batch of a step."""

import torch
from torch import Tensor

from noisystudent_core.config.settings import FitConfig
from noisystudent_core.data.mixing import Order, image_seeds
from noisystudent_core.data.resident import LabelledImages, PseudoLabelledImages
from noisystudent_core.noise.input_noise import InputNoiser
from noisystudent_core.training.losses import harden, sharpen
from noisystudent_core.training.step import Batch


class Batches:
    """`batches(step)` draws, joins and noises a step's images; the same for equal seeds and steps on any machine."""

    def __init__(self, config: FitConfig, labelled: LabelledImages, pseudo: PseudoLabelledImages | None) -> None:
        self._labelled, self._pseudo = labelled, pseudo
        self._noiser = InputNoiser(config.noise, config.model.resolution_px)
        self._seed = config.seed
        size = config.train.batch_size
        self._labelled_order = Order(len(labelled.labels), size, config.seed)
        if pseudo is not None and config.pseudo_labels is not None:
            self._targets = _targets(config, pseudo.probabilities)
            num_unlabelled = round(size * config.pseudo_labels.unlabelled_ratio)
            self._pseudo_order = Order(len(pseudo.images), num_unlabelled, config.seed + 1, pseudo.copies)

    def __call__(self, step: int) -> Batch:
        """The batch of step `step`, counted from 0."""
        labelled = self._labelled_order.batch(step)
        labels = self._labelled.labels[labelled]
        if self._pseudo is None:
            return Batch(self._noised(self._labelled.images[labelled], step), labels, None)
        pseudo = self._pseudo_order.batch(step)
        images = torch.cat([self._labelled.images[labelled], self._pseudo.images[pseudo]])
        return Batch(self._noised(images, step), labels, self._targets[pseudo])

    def _noised(self, images: Tensor, step: int) -> Tensor:
        return self._noiser(images, image_seeds(self._seed, step, len(images)).to(images.device))


def _targets(config: FitConfig, probabilities: Tensor) -> Tensor:
    assert config.pseudo_labels is not None
    if config.pseudo_labels.labels == "hard":
        return harden(probabilities, config.train.label_smoothing)
    return sharpen(probabilities, config.pseudo_labels.temperature)
