"""The demo on handwritten digits, and fine-tuning on your own images."""

from pathlib import Path

from noisystudent_core.config import (
    Adversarial,
    Corruptions,
    DataConfig,
    InputNoise,
    IterationConfig,
    LearnerConfig,
    ModelConfig,
    NoisyStudentConfig,
    OptimizerConfig,
    Perturbations,
    PseudoLabelConfig,
    RobustnessConfig,
    SelectionConfig,
    Sources,
    TrainConfig,
)

EXAMPLES = Path(__file__).parents[2] / "examples"


def digits(shrink: float = 1.0) -> NoisyStudentConfig:
    """MNIST digits, 100 of them labelled, among 15,000 unlabelled images of which 3,000 are clothes.

    Minutes on two cores: `noisy-student run --recipe digits`. Noise is moderate, as strong noise starves so small a
    net; `docs/decisions.md` has what was tried.
    """
    folder = EXAMPLES / "digits"
    net = ModelConfig(name="test_resnet", resolution_px=32, crop_fraction=1.0, dropout=0.1, stochastic_depth=0.1)
    return NoisyStudentConfig(
        name="digits",
        sources=Sources(
            labelled=str(folder / "labelled.parquet"),
            unlabelled=str(folder / "unlabelled.parquet"),
            validation=str(folder / "validation.parquet"),
            test=str(folder / "test.parquet"),
        ),
        data=DataConfig(num_classes=10, images_per_part=1000),
        teacher=LearnerConfig(
            model=net,
            train=_digits_train(300 * shrink, batch_size=100, learning_rate=0.1, weight_decay=5e-4),
            noise=_digits_noise(magnitude=9),
        ),
        robustness=RobustnessConfig(
            corruptions=Corruptions(num_images=max(20, round(200 * shrink))),
            perturbations=Perturbations(num_images=max(5, round(50 * shrink))),
            adversarial=Adversarial(num_images=max(20, round(200 * shrink))),
        ),
        selection=SelectionConfig(threshold=0.45, num_images_per_class=max(10, round(1100 * shrink)), max_copies=2),
        iterations=(
            IterationConfig(
                model=net,
                train=_digits_train(500 * shrink, batch_size=64, learning_rate=0.2, weight_decay=5e-3),
                noise=_digits_noise(magnitude=14),
                pseudo_labels=PseudoLabelConfig(unlabelled_ratio=3, labels="hard"),
            ),
        )
        * 2,
    )


def _digits_noise(magnitude: float) -> InputNoise:
    return InputNoise(
        num_ops=2,
        magnitude=magnitude,
        translate_const=4,
        cutout_const=4,
        crop="translate",
        crop_padding_px=3,
        flip=False,
    )


def _digits_train(steps: float, *, batch_size: int, learning_rate: float, weight_decay: float) -> TrainConfig:
    """SGD with a cosine; `learning_rate` is that of `batch_size`."""
    return TrainConfig(
        epochs=None,
        steps=max(20, round(steps)),
        batch_size=batch_size,
        optimizer=OptimizerConfig(
            name="sgd", learning_rate=learning_rate, learning_rate_batch=batch_size, weight_decay=weight_decay
        ),
        schedule="cosine",
        warmup_epochs=10 if steps > 200 else 1,
        ema_decay=0.99,
        batch_norm_momentum=0.1,
        log_every_steps=20,
    )


def finetune(shrink: float = 1.0, *, model: str = "convnext_tiny.fb_in22k") -> NoisyStudentConfig:
    """A pretrained timm backbone, fine-tuned on some 20,000 labelled images as teacher and as two students.

    Give the sources and `--set data.num_classes=N`; another backbone by `--set teacher.model.name=NAME --student NAME`;
    weights from a file, where the hub is out of reach, by `--set teacher.model.pretrained=false`,
    `--set teacher.model.weights=FILE` and the same for `iterations.*`. AdamW with layer-wise decay, cosine, moderate
    RandAugment; hours on one GPU.
    """
    net = ModelConfig(name=model, pretrained=True, resolution_px=224, dropout=0.2, stochastic_depth=0.2)
    noise = InputNoise(dialect="timm", num_ops=2, magnitude=9, crop="resized", crop_min_area=0.25)
    train = TrainConfig(
        epochs=max(0.1, 30 * shrink),
        batch_size=64,
        optimizer=OptimizerConfig(
            name="adamw",
            learning_rate=1e-3,
            learning_rate_batch=1024,
            decay=0.999,
            eps=1e-8,
            weight_decay=0.05,
            layer_decay=0.75,
        ),
        schedule="cosine",
        warmup_epochs=min(3.0, 3 * shrink),
        ema_decay=0.999,
        batch_norm_momentum=0.1,
    )
    student = IterationConfig(model=net, train=train, noise=noise, pseudo_labels=PseudoLabelConfig(unlabelled_ratio=3))
    return NoisyStudentConfig(
        name="finetune",
        teacher=LearnerConfig(model=net, train=train, noise=noise),
        selection=SelectionConfig(threshold=0.3, num_images_per_class=5000),
        iterations=(student, student),
    )
