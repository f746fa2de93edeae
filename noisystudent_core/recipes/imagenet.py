"""The paper's ImageNet runs, 1.28M labelled images and a corpus such as JFT: EfficientNet-B0 to B7, and L2.

Sources are yours to give: Parquet files with `image`, the labelled ones with `label`, in folders or a bucket.

`noisy-student run --recipe imagenet_b0 --labelled s3://BUCKET/train --unlabelled s3://BUCKET/unlabelled
--validation s3://BUCKET/held-out --test s3://BUCKET/val --root s3://BUCKET/runs`

Costs count the images a student sees, labelled and unlabelled, over all its epochs; its baseline sees the labelled ones
alone. None of these runs was made by us: the accuracies are the paper's.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from noisystudent_core.config import (
    InputNoise,
    IterationConfig,
    LearnerConfig,
    ModelConfig,
    NoisyStudentConfig,
    PseudoLabelConfig,
    ResolutionFix,
    SelectionConfig,
    TrainConfig,
)

NoiseScale = Literal["paper", "reference"]


class Size(NamedTuple):
    """What differs between sizes: pixels, epochs, and the noise in the reference's scripts (METHOD sections 3, 4)."""

    resolution_px: int
    num_epochs: int
    dropout: float
    magnitude: float | None  # of RandAugment; None: the reference leaves it out


SIZES = {
    "b0": Size(224, 700, 0.2, None),
    "b1": Size(240, 700, 0.2, None),
    "b2": Size(260, 700, 0.3, 6),
    "b3": Size(300, 700, 0.3, 12),
    "b4": Size(380, 700, 0.4, 15),
    "b5": Size(456, 350, 0.4, 18),
    "b6": Size(528, 350, 0.5, 24),
    "b7": Size(600, 350, 0.5, 27),
    "l2": Size(475, 350, 0.5, 27),
}


def imagenet_b0(shrink: float = 1.0, *, noise_scale: NoiseScale = "paper") -> NoisyStudentConfig:
    """EfficientNet-B0 teaches B0 once, ratio 1, 224 px: about +0.8 top-1 (paper, figure 2).

    It selects for itself. Cost: 1.8 billion images at 224 px. `noisy-student run --recipe imagenet_b0 ...`
    """
    return _one_round("b0", shrink, noise_scale, unlabelled_ratio=1)


def imagenet_b1(shrink: float = 1.0, *, noise_scale: NoiseScale = "paper") -> NoisyStudentConfig:
    """EfficientNet-B1 teaches B1 once, ratio 3, 240 px: about +0.8 top-1 (paper, figure 2).

    Cost: 3.6 billion images at 240 px. `noisy-student run --recipe imagenet_b1 ...`
    """
    return _one_round("b1", shrink, noise_scale)


def imagenet_b2(shrink: float = 1.0, *, noise_scale: NoiseScale = "paper") -> NoisyStudentConfig:
    """EfficientNet-B2 teaches B2 once, ratio 3, 260 px: about +0.8 top-1 (paper, figure 2).

    Cost: 3.6 billion images at 260 px. `noisy-student run --recipe imagenet_b2 ...`
    """
    return _one_round("b2", shrink, noise_scale)


def imagenet_b3(shrink: float = 1.0, *, noise_scale: NoiseScale = "paper") -> NoisyStudentConfig:
    """EfficientNet-B3 teaches B3 once, ratio 3, 300 px: about +0.8 top-1 (paper, figure 2).

    Cost: 3.6 billion images at 300 px. `noisy-student run --recipe imagenet_b3 ...`
    """
    return _one_round("b3", shrink, noise_scale)


def imagenet_b4(shrink: float = 1.0, *, noise_scale: NoiseScale = "paper") -> NoisyStudentConfig:
    """EfficientNet-B4 teaches B4 once, ratio 3, 380 px: about +0.8 top-1 (paper, figure 2).

    Cost: 3.6 billion images at 380 px. `noisy-student run --recipe imagenet_b4 ...`
    """
    return _one_round("b4", shrink, noise_scale)


def imagenet_b5(shrink: float = 1.0, *, noise_scale: NoiseScale = "paper") -> NoisyStudentConfig:
    """EfficientNet-B5 teaches B5 once, ratio 3, 456 px: about +0.8 top-1 (paper, figure 2).

    The net of the ablations: at ratio 1 from 84.0 to 84.9 (paper, table 6: 130M unlabelled images, RandAugment).
    Cost: 1.8 billion images at 456 px. `noisy-student run --recipe imagenet_b5 ...`
    """
    return _one_round("b5", shrink, noise_scale)


def imagenet_b6(shrink: float = 1.0, *, noise_scale: NoiseScale = "paper") -> NoisyStudentConfig:
    """EfficientNet-B6 teaches B6 once, ratio 3, 528 px: about +0.8 top-1 (paper, figure 2).

    Cost: 1.8 billion images at 528 px. `noisy-student run --recipe imagenet_b6 ...`
    """
    return _one_round("b6", shrink, noise_scale)


def imagenet_b7(shrink: float = 1.0, *, noise_scale: NoiseScale = "paper") -> NoisyStudentConfig:
    """EfficientNet-B7 teaches B7 once, ratio 3, 600 px: about +0.8 top-1 (paper, figure 2), on 85.0 supervised.

    Cost: 1.8 billion images at 600 px. `noisy-student run --recipe imagenet_b7 ...`
    """
    return _one_round("b7", shrink, noise_scale)


def imagenet_l2(shrink: float = 1.0, *, noise_scale: NoiseScale = "paper") -> NoisyStudentConfig:
    """EfficientNet-B7 teaches L2, L2 teaches L2 twice, ratios 14, 14, 28: 85.0 -> 88.4 top-1 (paper, section 3.2).

    85.5 is the supervised L2's. Students are fitted at 475 px, then brought to 800 px (section 3.1). Cost: 6.7, 6.7
    and 13 billion images at 475 px; the paper's L2 with ratio 14 took 6 days on 2,048 TPU v3 cores.
    `noisy-student run --recipe imagenet_l2 ...`
    """
    fix = ResolutionFix(resolution_px=800, crop_fraction=800 / 832)
    fix = fix.model_copy(update={"train": fix.train.model_copy(update={"epochs": 1.5 * shrink})})
    student = _learner("l2", shrink, noise_scale).model_copy(update={"fix_resolution": fix})
    return _config(
        "l2",
        shrink,
        noise_scale,
        teacher=_learner("b7", shrink, noise_scale),
        iterations=tuple(_student(student, ratio) for ratio in (14, 14, 28)),
    )


def _one_round(size: str, shrink: float, noise_scale: NoiseScale, unlabelled_ratio: float = 3) -> NoisyStudentConfig:
    learner = _learner(size, shrink, noise_scale)
    return _config(size, shrink, noise_scale, teacher=learner, iterations=(_student(learner, unlabelled_ratio),))


def _config(
    size: str,
    shrink: float,
    noise_scale: NoiseScale,
    *,
    teacher: LearnerConfig,
    iterations: tuple[IterationConfig, ...],
) -> NoisyStudentConfig:
    """B0 selects, 130,000 images of each class above 0.3."""
    return NoisyStudentConfig(
        name=f"imagenet_{size}" if noise_scale == "paper" else f"imagenet_{size}_reference",
        teacher=teacher,
        selector="teacher" if size == "b0" else _learner("b0", shrink, noise_scale),
        selection=SelectionConfig(threshold=0.3, num_images_per_class=max(1, round(130_000 * shrink))),
        iterations=iterations,
    )


def _student(learner: LearnerConfig, unlabelled_ratio: float) -> IterationConfig:
    return IterationConfig(
        model=learner.model,
        train=learner.train,
        noise=learner.noise,
        fix_resolution=learner.fix_resolution,
        pseudo_labels=PseudoLabelConfig(unlabelled_ratio=unlabelled_ratio),
    )


def _learner(size: str, shrink: float, noise_scale: NoiseScale) -> LearnerConfig:
    """EfficientNet of one size; x 0.97 every 4.8 epochs of 700 up to B4, every 2.4 of 350 above."""
    px, num_epochs, dropout, magnitude = SIZES[size]
    if noise_scale == "paper":
        dropout, magnitude = 0.5, 27
    return LearnerConfig(
        model=ModelConfig(
            name=f"tf_efficientnet_{size}", resolution_px=px, crop_fraction=px / (px + 32), dropout=dropout
        ),
        train=TrainConfig(
            epochs=num_epochs * shrink, warmup_epochs=5 * shrink, decay_epochs=num_epochs * shrink * 2.4 / 350
        ),
        noise=InputNoise(num_ops=0) if magnitude is None else InputNoise(magnitude=magnitude),
    )


def _with_reference_noise(recipe: Callable[..., NoisyStudentConfig]) -> Callable[..., NoisyStudentConfig]:
    def with_reference_noise(shrink: float = 1.0) -> NoisyStudentConfig:
        return recipe(shrink, noise_scale="reference")

    with_reference_noise.__doc__ = f"As {recipe.__name__}, with the lighter noise of the reference's scripts."
    return with_reference_noise


_PAPER = (
    imagenet_b0,
    imagenet_b1,
    imagenet_b2,
    imagenet_b3,
    imagenet_b4,
    imagenet_b5,
    imagenet_b6,
    imagenet_b7,
    imagenet_l2,
)
IMAGENET: dict[str, Callable[..., NoisyStudentConfig]] = {
    **{recipe.__name__: recipe for recipe in _PAPER},
    **{f"{recipe.__name__}_reference": _with_reference_noise(recipe) for recipe in _PAPER},
}
