"""What can be measured of a machine: each probe is a piece of work with all that its speed depends on."""

from typing import Literal

from pydantic import Field

from noisystudent_core.config.evaluation import Adversarial, Corruptions, Perturbations
from noisystudent_core.config.settings import FitConfig, ModelConfig, OptimizerConfig, Settings, TrainConfig

# what a second's worth is counted in: images of a step (labelled and unlabelled), images labelled or measured, images
# under a whole suite, images decoded by one stage, images made worse in every way
Kind = Literal["step", "label", "evaluate", "attack", "decode", "ingest", "fingerprint", "corrupt", "perturb"]
NEEDS_NET: tuple[Kind, ...] = ("step", "label", "evaluate", "attack")


class Probe(Settings):
    """A piece of work; equal probes run at equal speed on the same machine with the same versions."""

    kind: Kind
    model: ModelConfig | None = None  # of a step, label, evaluate, attack
    fit: FitConfig | None = None  # of a step
    num_classes: int = 2
    batch_size: int = 256  # of label, evaluate and attack
    suite: Adversarial | Corruptions | Perturbations | None = Field(default=None, discriminator="kind")
    size_px: int = 0  # of decode and corrupt: what images become
    crop_fraction: float = 1.0
    image_bytes: int = 0  # of label, decode, ingest and fingerprint: an encoded image, rounded to a power of two


def step(config: FitConfig) -> Probe:
    """A training step, without what does not change its speed."""
    train = TrainConfig(
        epochs=None,
        steps=1,
        optimizer=OptimizerConfig(name=config.train.optimizer.name),
        **{name: getattr(config.train, name) for name in _OF_SPEED},
    )
    fit = FitConfig(
        num_classes=config.num_classes,
        model=_shape(config.model),
        train=train,
        noise=config.noise,
        pseudo_labels=config.pseudo_labels,
    )
    return Probe(kind="step", model=fit.model, fit=fit, num_classes=config.num_classes)


def label(model: ModelConfig, num_classes: int, batch_size: int, image_bytes: int) -> Probe:
    """Reading, decoding and labelling images, as labelling does all at once."""
    return Probe(
        kind="label", model=_shape(model), num_classes=num_classes, batch_size=batch_size, image_bytes=image_bytes
    )


def evaluate(model: ModelConfig, num_classes: int, batch_size: int) -> Probe:
    """Measuring a net on decoded images."""
    return Probe(kind="evaluate", model=_shape(model), num_classes=num_classes, batch_size=batch_size)


def attack(model: ModelConfig, num_classes: int, batch_size: int, suite: Adversarial) -> Probe:
    """All attacks of a suite."""
    suite = suite.model_copy(update={"num_images": None, "seed": 0})
    return Probe(kind="attack", model=_shape(model), num_classes=num_classes, batch_size=batch_size, suite=suite)


def worse(suite: Corruptions | Perturbations, size_px: int) -> Probe:
    """Making every kind of image of a suite."""
    suite = suite.model_copy(update={"num_images": None, "seed": 0})
    return Probe(kind="corrupt" if isinstance(suite, Corruptions) else "perturb", suite=suite, size_px=size_px)


def of_images(
    kind: Literal["decode", "ingest", "fingerprint"], image_bytes: int, size_px: int = 0, crop_fraction: float = 1.0
) -> Probe:
    """Work on encoded images by themselves."""
    return Probe(kind=kind, image_bytes=image_bytes, size_px=size_px, crop_fraction=crop_fraction)


def rounded(num_bytes: float) -> int:
    """The nearest power of two, so that sets of like images share a rate."""
    return 2 ** max(0, round(num_bytes).bit_length() - 1)


_OF_SPEED = ("batch_size", "micro_batches", "precision", "compile", "clip_norm", "batch_norm", "loss_weighting")


def _shape(model: ModelConfig) -> ModelConfig:
    """The net itself: its weights change nothing."""
    return model.model_copy(
        update={"name": model.name.partition(".")[0], "pretrained": False, "weights": None, "head_init_range": 1.0}
    )
