"""The settings of evaluators."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from noisystudent_core.config.settings import Settings, StageSettings

if TYPE_CHECKING:
    from noisystudent_core.config.run import NoisyStudentConfig

LARGEST_SMALL_PX = 84  # up to here the generators' constants are those for 32 px
Epsilon = Annotated[float, Field(ge=0, le=255)]  # grey levels of 0..255, before normalisation


class AdversarialConfig(Settings):
    """Attacks that follow the gradient of the loss (section 3.2, "Adversarial robustness"; figure 4)."""

    fgsm_epsilons: tuple[Epsilon, ...] = (0, 1, 2, 4, 8, 16)  # 0: the images as they are
    pgd_epsilon: Epsilon | None = 16  # None: no PGD
    pgd_steps: Annotated[int, Field(ge=1)] = 10
    pgd_step_size: Epsilon | None = None  # grey levels; None: 2.5 epsilon / steps (the paper names none)
    pgd_random_start: bool = False
    seed: int = 0  # of the random start


class Adversarial(AdversarialConfig):
    """Attacks on a share of the images."""

    kind: Literal["adversarial"] = "adversarial"
    num_images: Annotated[int, Field(ge=1)] | None = 1000  # a seeded choice; None: all


class Corruptions(Settings):
    """The 15 corruptions of ImageNet-C, made of the images that are reported (section 3.4)."""

    kind: Literal["corruptions"] = "corruptions"
    severities: Annotated[tuple[Annotated[int, Field(ge=1, le=5)], ...], Field(min_length=1)] = (1, 2, 3, 4, 5)
    num_images: Annotated[int, Field(ge=1)] | None = 1000  # a seeded choice; None: all
    frost: str | None = None  # a folder of textures; None: procedural, and named so
    seed: int = 0


class Perturbations(Settings):
    """The 10 perturbation sequences of ImageNet-P, made of the images that are reported (section 3.4)."""

    kind: Literal["perturbations"] = "perturbations"
    num_images: Annotated[int, Field(ge=1)] | None = 200  # a seeded choice of about 31 frames each; None: all
    seed: int = 0


Suite = Annotated[Adversarial | Corruptions | Perturbations, Field(discriminator="kind")]


class RobustnessConfig(Settings):
    """What is measured of every model beside its accuracy; None: that is not."""

    corruptions: Corruptions | None = None
    perturbations: Perturbations | None = None
    adversarial: Adversarial | None = None

    @property
    def suites(self) -> list[Adversarial | Corruptions | Perturbations]:
        """Those that are measured."""
        return [suite for suite in (self.corruptions, self.perturbations, self.adversarial) if suite is not None]


class CorruptConfig(StageSettings):
    """Images made worse, at the size that a model sees them: once for all models of that size."""

    stage, kind, version = "corrupt", "corrupted", 1
    suite: Annotated[Corruptions | Perturbations, Field(discriminator="kind")]
    resolution_px: Annotated[int, Field(ge=8)]
    crop_fraction: Annotated[float, Field(gt=0, le=1)]

    @property
    def decoded_px(self) -> int:
        """The side of images before they are made worse: what moves large ones shows pixels from beyond the crop."""
        moves = isinstance(self.suite, Perturbations) and self.resolution_px > LARGEST_SMALL_PX
        return round(self.resolution_px * 256 / 224) if moves else self.resolution_px


class EvaluateConfig(StageSettings):
    """A checkpoint's metrics on labelled images: accuracy, or a `suite`, or a `released` benchmark's."""

    stage, kind, version = "evaluate", "evaluations", 2
    benchmark: str = "test"
    batch_size: Annotated[int, Field(ge=1)] = 256
    suite: Suite | None = None
    released: Literal["folder", "imagenet_a", "imagenet_c", "imagenet_p", "real"] | None = None
    # what the net's classes are called in the released folders; "sorted": as these, in their order; None: as the
    # checkpoint says, else ImageNet's wnids or numbers
    class_names: tuple[str, ...] | Literal["sorted"] | None = None

    @model_validator(mode="after")
    def _one_measurement(self) -> "EvaluateConfig":
        if self.suite is not None and self.released is not None:
            raise ValueError(f"suite={self.suite.kind}, released={self.released}: two measurements; give one of them")
        if self.class_names is not None and self.released is None:
            raise ValueError("class_names: say what a released benchmark's folders are of; leave them out without one")
        return self


class ReportConfig(StageSettings):
    """The page on a run, with tables and figures; numbers bound what is read for its pictures."""

    stage, kind, version = "report", "reports", 2
    name: str  # of the run
    seed: int = 0  # of the run
    class_names: tuple[str, ...] | None = None
    has_test: bool = True  # the figures are on test images, not on the validation images
    own_validation: bool = True  # a source of its own, not a share of the labelled images
    num_images: Annotated[int, Field(ge=1)] = 2000  # reported images shown to the first teacher and the last student
    num_parts: Annotated[int, Field(ge=1)] = 4  # image parts that pictures are taken from, at most
    batch_size: Annotated[int, Field(ge=1)] = 256

    @classmethod
    def of(cls, run: "NoisyStudentConfig") -> "ReportConfig":
        """The settings that follow from a run's."""
        return cls(
            name=run.name,
            seed=run.seed,
            class_names=run.data.class_names,
            has_test=run.sources.test is not None,
            own_validation=run.sources.validation is not None,
            batch_size=run.batch_size,
        )


class ModelReportConfig(StageSettings):
    """The page on one model's measurements; numbers bound what is read for its pictures."""

    stage, kind, version = "report_model", "reports", 1
    class_names: tuple[str, ...] | None = None  # None: as the checkpoint says, else the images
    num_images: Annotated[int, Field(ge=1)] = 2000  # shown to the model for pictures of its mistakes
    num_parts: Annotated[int, Field(ge=1)] = 4  # image parts that pictures are taken from, at most
    batch_size: Annotated[int, Field(ge=1)] = 256
