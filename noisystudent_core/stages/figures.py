"""What a fit shows of its noise before the first step: one image under every operation, and the start of a batch."""

import base64

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import center_crop

from noisystudent_core.config.settings import FitConfig, InputNoise
from noisystudent_core.evaluation import figures
from noisystudent_core.evaluation.figures import Group
from noisystudent_core.events import Events, silent
from noisystudent_core.noise.randaugment import DIALECTS, apply_op
from noisystudent_core.training.batches import Batches

LEVELS = (5, 9, 27)
NUM_LABELLED, NUM_PSEUDO_LABELLED = 16, 24  # images of the batch that are shown


def show_noise(config: FitConfig, batches: Batches, events: Events) -> None:
    """Report the figures "noise-grid", unless nothing of the fit is under RandAugment, and "training-batch"."""
    if events is silent:
        return
    noises = [config.noise, config.pseudo_labels and config.pseudo_labels.noise]
    augmented = [noise for noise in noises if noise is not None and noise.num_ops]
    if augmented:
        image = center_crop(batches.untouched(), [config.model.resolution_px] * 2).cpu()
        _report(events, "noise-grid", _noise_grid(image, augmented[0]))
    _report(events, "training-batch", _training_batch(config, batches))


def _report(events: Events, name: str, png: bytes) -> None:
    events("figure", name=name, png=base64.b64encode(png).decode())


def _noise_grid(image: Tensor, noise: InputNoise) -> bytes:
    """`image` is uint8 [1, 3, S, S]; signs are positive, and a cutout is in the middle."""
    dialect = DIALECTS[noise.dialect]
    rows = {"untouched": image.expand(len(dialect.rules), -1, -1, -1)}
    for level in LEVELS:
        noised = [
            apply_op(
                image,
                name,
                level,
                dialect=noise.dialect,
                translate_const=noise.translate_const,
                cutout_const=noise.cutout_const,
            )
            for name in dialect.rules
        ]
        acts_as = f" as {dialect.max_level:g}" if level > dialect.max_level else ""
        rows[f"level {level}{acts_as}"] = torch.cat(noised)
    subtitle = (
        f"One image at {image.shape[-1]} px; "
        f"this fit draws {noise.num_ops} of {len(dialect.rules)} operations an image, at level {noise.magnitude:g}"
    )
    return figures.noise_grid(f"RandAugment, {noise.dialect} dialect", subtitle, list(dialect.rules), rows)


def _training_batch(config: FitConfig, batches: Batches) -> bytes:
    (images, labels), unlabelled = batches.first(NUM_LABELLED, NUM_PSEUDO_LABELLED)
    num_labelled, num_unlabelled = config.images_per_step
    heading = f"Labelled: {len(images)} of {num_labelled}"
    groups = [Group(heading=heading, images=images, captions=_class_names(config, labels))]
    if unlabelled is not None:
        images, probabilities = unlabelled
        confidences, labels = probabilities.max(1)
        groups.append(
            Group(
                heading=f"Pseudo-labelled: {len(images)} of {num_unlabelled}, with the teacher's confidence",
                images=images,
                captions=_class_names(config, labels),
                notes=[f"{confidence:.0%}" for confidence in confidences.tolist()],
            )
        )
    subtitle = (
        f"The first images of the first step as {config.model.name} sees them, at {config.model.resolution_px} px"
    )
    return figures.training_batch("Training batch", subtitle, groups)


def _class_names(config: FitConfig, labels: Tensor) -> list[str]:
    return [str(label) if config.class_names is None else config.class_names[label] for label in labels.tolist()]
