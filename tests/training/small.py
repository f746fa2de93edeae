"""A fit as small as it can be: a timm net of 0.1M parameters, three classes, images of 32 px that a net can learn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from noisystudent_core.config import (
    FitConfig,
    InputNoise,
    ModelConfig,
    OptimizerConfig,
    PseudoLabelConfig,
    TrainConfig,
)
from noisystudent_core.data.streams import ResidentStream, Share
from noisystudent_core.models.architectures import Normalised, create_model
from noisystudent_core.noise.model_noise import noise_model
from noisystudent_core.training.batches import Batches
from noisystudent_core.training.inputs import labelled_order, unlabelled_order

AnyBatches = TypeVar("AnyBatches", bound=Batches)

NO_NOISE = InputNoise(num_ops=0, crop="translate", crop_padding_px=0, flip=False)
SGD = OptimizerConfig(name="sgd", learning_rate=0.05, learning_rate_batch=4, weight_decay=0)


@dataclass(frozen=True)
class LabelledImages:
    """images uint8 [N, 3, R, R] and labels int64 [N], from parts of so many images each; (): from one part."""

    images: Tensor
    labels: Tensor
    part_sizes: Sequence[int] = ()


@dataclass(frozen=True)
class PseudoLabelledImages:
    """As `LabelledImages`, but the teacher's probabilities float32 [N, C] for labels, and copies int [N]."""

    images: Tensor
    probabilities: Tensor
    copies: Tensor
    part_sizes: Sequence[int] = ()


def resident(
    config: FitConfig,
    labelled: LabelledImages,
    unlabelled: PseudoLabelledImages | None,
    share: Share | None = None,
    kind: type[AnyBatches] = Batches,
) -> AnyBatches:
    """Batches of images that lie in memory."""
    share = share or Share()
    order = labelled_order(config, labelled.part_sizes or [len(labelled.labels)])
    stream = ResidentStream(labelled.images, labelled.labels, order, share)
    if unlabelled is None:
        return kind(config, stream, None, share)
    order = unlabelled_order(config, unlabelled.part_sizes or [len(unlabelled.images)], unlabelled.copies)
    return kind(config, stream, ResidentStream(unlabelled.images, unlabelled.probabilities, order, share), share)


def fit_config(
    *,
    noise: InputNoise = NO_NOISE,
    pseudo_labels: PseudoLabelConfig | None = None,
    seed: int = 0,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    **train: Any,
) -> FitConfig:
    defaults: dict[str, Any] = {
        "epochs": None,
        "steps": 4,
        "batch_size": 4,
        "label_smoothing": 0.0,
        "optimizer": SGD,
        "schedule": "cosine",
        "warmup_epochs": 0,
        "ema_decay": 0.0,
        "batch_norm_momentum": 0.1,
        "num_validations": 1,
        "log_every_steps": 1,
    }
    model = ModelConfig(name="test_resnet", resolution_px=32, dropout=dropout, stochastic_depth=stochastic_depth)
    return FitConfig(
        num_classes=3,
        model=model,
        train=TrainConfig(**defaults | train),
        noise=noise,
        pseudo_labels=pseudo_labels,
        seed=seed,
    )


def build(config: FitConfig) -> Normalised:
    net = create_model(config.model, config.num_classes, config.seed, config.train.batch_norm_momentum)
    noise_model(net, config.model.dropout, config.model.stochastic_depth)
    return Normalised(net)


def labelled(num_images: int = 12) -> LabelledImages:
    """Image i has class i % 3, told by a bright band, and i itself in its first pixel."""
    labels = torch.arange(num_images) % 3
    return LabelledImages(_pixels(labels, first=0), labels)


def pseudo_labelled(num_images: int = 20, copies: list[int] | None = None) -> PseudoLabelledImages:
    """Image i has 100 + i in its first pixel; its teacher gives its class 0.8 and the others 0.1."""
    classes = torch.arange(num_images) % 3
    probabilities = torch.full((num_images, 3), 0.1)
    probabilities[torch.arange(num_images), classes] = 0.8
    counts = torch.ones(num_images, dtype=torch.int64) if copies is None else torch.tensor(copies)
    return PseudoLabelledImages(_pixels(classes, first=100), probabilities, counts)


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    """Whether parameters and buffers are equal, bit for bit."""
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def numbers(images: torch.Tensor) -> list[int]:
    """Which images these are, where no noise moved their first pixel."""
    return images[:, 0, 0, 0].tolist()


def _pixels(classes: torch.Tensor, first: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(first)
    images = torch.randint(0, 90, (len(classes), 3, 32, 32), dtype=torch.uint8, generator=generator)
    for image, label in zip(images, classes.tolist(), strict=True):
        image[:, :, 10 * label : 10 * label + 10] += 150
    images[:, :, 0, 0] = torch.arange(first, first + len(images), dtype=torch.uint8)[:, None]
    return images
