"""What is measured of one model that no run of ours need have made."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from noisystudent_core.config.data import IngestConfig, PrepareConfig
from noisystudent_core.config.evaluation import (
    Adversarial,
    CorruptConfig,
    Corruptions,
    EvaluateConfig,
    ModelReportConfig,
    Perturbations,
    RobustnessConfig,
    Suite,
)
from noisystudent_core.config.overrides import apply_overrides, validated
from noisystudent_core.config.settings import AdoptConfig, ModelConfig, Settings
from noisystudent_core.errors import ConfigurationError

Released = Literal["folder", "imagenet_a", "imagenet_c", "imagenet_p", "real"]
SUITES: Mapping[str, type[Settings]] = {
    "corruptions": Corruptions,
    "perturbations": Perturbations,
    "adversarial": Adversarial,
}
TIMM = "timm:"
NUM_IMAGENET_CLASSES = 1000  # of timm's published weights, unless said


class ModelEvaluation(Settings):
    """A checkpoint, and the images and benchmarks that it is measured on."""

    checkpoint: str | None = None  # a finished one; None: that of `model`
    model: ModelConfig | None = None  # whose published weights, or whose file, are taken
    num_classes: Annotated[int, Field(ge=2)] | None = None
    # what the net's classes are called in the folders and in the images: in their order, or "sorted"; None: as the
    # checkpoint says, else as `EvaluateConfig.class_names`
    class_names: tuple[str, ...] | Literal["sorted"] | None = None
    images: str | None = None
    folders: dict[Released, str] = Field(default_factory=dict)
    robustness: RobustnessConfig = RobustnessConfig()
    batch_size: Annotated[int, Field(ge=1)] = 256
    max_bad_fraction: Annotated[float, Field(ge=0, le=1)] = 0.01

    @classmethod
    def of(
        cls,
        checkpoint: str,
        images: str | None = None,
        folders: Mapping[str, str] | None = None,
        suites: Sequence[str] | None = None,
        model: str | None = None,
        num_classes: int | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> "ModelEvaluation":
        """From what users say; raises `ConfigurationError` for what contradicts itself, and where nothing is asked."""
        if unknown := sorted(set(suites or ()) - set(SUITES)):
            raise ConfigurationError(f"suites={unknown}: must be of {', '.join(SUITES)}")
        if images is None and (suites or not folders):
            raise ConfigurationError("images=None: nothing to measure on; give labelled images, or benchmarks' folders")
        tree = {
            **_model(checkpoint, model, num_classes),
            "num_classes": num_classes,
            "images": images,
            "folders": dict(folders or {}),
            "robustness": {name: {} for name in suites or ()},
        }
        return apply_overrides(validated(tree, cls), overrides or {})

    def adopt(self) -> AdoptConfig | None:
        """Settings that make a checkpoint of weights that are no artifact of ours."""
        if self.model is None:
            return None
        return AdoptConfig(
            model=self.model,
            num_classes=self.num_classes or NUM_IMAGENET_CLASSES,
            own_geometry=self.model.pretrained,
            class_names=self.listed_names,
        )

    @property
    def listed_names(self) -> tuple[str, ...] | None:
        """The names of classes that are given one by one."""
        return None if self.class_names == "sorted" else self.class_names

    def prepare(self, num_classes: int, known: Sequence[str] | None) -> PrepareConfig:
        """Settings that take in the images, whose labels are classes of the net; `known`: its checkpoint's names."""
        names = self.listed_names or (tuple(known) if known and self.class_names is None else None)
        ingest = IngestConfig(num_classes=num_classes, class_names=names)
        return PrepareConfig(ingest=ingest, max_bad_fraction=self.max_bad_fraction)

    def evaluate(self, benchmark: str, suite: Suite | None = None, released: Released | None = None) -> EvaluateConfig:
        """Settings of one measurement."""
        return EvaluateConfig(
            benchmark=benchmark,
            batch_size=self.batch_size,
            suite=suite,
            released=released,
            class_names=self.class_names if released is not None else None,
        )

    def report(self) -> ModelReportConfig:
        """Settings of the page on what was measured."""
        return ModelReportConfig(class_names=self.listed_names, batch_size=self.batch_size)

    def corrupt(self, suite: Corruptions | Perturbations, size: int, crop_fraction: float) -> CorruptConfig:
        """Settings of a suite's images, as a model of this input sees them.

        Raises `ConfigurationError` for a size at which images cannot be made worse.
        """
        return validated({"suite": suite, "resolution_px": size, "crop_fraction": crop_fraction}, CorruptConfig)


def _model(checkpoint: str, model: str | None, num_classes: int | None) -> dict[str, Any]:
    """Where the weights come from."""
    is_file = checkpoint.endswith(".safetensors")
    if model is not None and not is_file:
        raise ConfigurationError(
            f"model={model!r} beside {checkpoint}, which says itself what net it is: leave model out, or give a "
            ".safetensors file of that net"
        )
    if checkpoint.startswith(TIMM):
        return {"model": {"name": checkpoint.removeprefix(TIMM), "pretrained": True}}
    if not is_file:
        return {"checkpoint": checkpoint}
    if model is None or num_classes is None:
        missing = " and ".join(n for n, given in (("model", model), ("num_classes", num_classes)) if given is None)
        raise ConfigurationError(
            f"{checkpoint}: weights alone, without the net that they are of; give {missing}, as "
            'model="resnet50", num_classes=1000'
        )
    return {"model": {"name": model, "weights": checkpoint}}
