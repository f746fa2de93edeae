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


class ModelEvaluation(Settings):
    """A checkpoint, and the images and benchmarks that it is measured on."""

    checkpoint: str | None = None  # a finished one; None: that of `model`
    model: ModelConfig | None = None  # whose published weights, or whose file, are taken
    num_classes: Annotated[int, Field(ge=1)] | None = None
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
        return AdoptConfig(model=self.model, num_classes=self.num_classes or 1000, own_geometry=self.model.pretrained)

    def prepare(self, num_classes: int) -> PrepareConfig:
        """Settings that take in the images."""
        return PrepareConfig(ingest=IngestConfig(num_classes=num_classes), max_bad_fraction=self.max_bad_fraction)

    def evaluate(self, benchmark: str, suite: Suite | None = None, released: Released | None = None) -> EvaluateConfig:
        """Settings of one measurement."""
        return EvaluateConfig(benchmark=benchmark, batch_size=self.batch_size, suite=suite, released=released)

    def corrupt(self, suite: Corruptions | Perturbations, size: int, crop_fraction: float) -> CorruptConfig:
        """Settings of a suite's images, as a model of this input sees them."""
        return CorruptConfig(suite=suite, resolution_px=size, crop_fraction=crop_fraction)


def _model(checkpoint: str, model: str | None, num_classes: int | None) -> dict[str, Any]:
    """Where the weights come from."""
    if checkpoint.startswith(TIMM):
        return {"model": {"name": checkpoint.removeprefix(TIMM), "pretrained": True}}
    if not checkpoint.endswith(".safetensors"):
        return {"checkpoint": checkpoint}
    if model is None or num_classes is None:
        raise ConfigurationError(f"{checkpoint}: a file of weights alone; say which net it is of: model, num_classes")
    return {"model": {"name": model, "weights": checkpoint}}
