"""Stages on images as few as they can be: three classes, 32 px, nets of 0.4M parameters, three steps a fit."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noisystudent_core import stages
from noisystudent_core.config import (
    FitConfig,
    IngestConfig,
    InputNoise,
    ModelConfig,
    OptimizerConfig,
    PredictConfig,
    PrepareConfig,
    PseudoLabelConfig,
    SelectConfig,
    TrainConfig,
)
from noisystudent_core.storage.manifest import artifact_url, input_digests

NUM_CLASSES = 3
IMAGES_PER_PART = 10
FIT = FitConfig(
    num_classes=NUM_CLASSES,
    model=ModelConfig(name="test_resnet", resolution_px=32, crop_fraction=1.0, dropout=0.1, stochastic_depth=0.1),
    train=TrainConfig(
        epochs=None,
        steps=3,
        batch_size=6,
        optimizer=OptimizerConfig(name="sgd", learning_rate=0.05, learning_rate_batch=6),
        schedule="cosine",
        warmup_epochs=0,
        ema_decay=0.5,
        batch_norm_momentum=0.5,
        num_validations=1,
        log_every_steps=1,
    ),
    noise=InputNoise(num_ops=1, magnitude=6, crop="translate", crop_padding_px=2, flip=False),
)
STUDENT = FIT.model_copy(update={"pseudo_labels": PseudoLabelConfig(unlabelled_ratio=2), "seed": 1})
LABELS = PredictConfig(keep="label", batch_size=4)
DISTRIBUTIONS = PredictConfig(keep="distribution", batch_size=4)
SELECT = SelectConfig(threshold=0.0, num_images_per_class=6)


@dataclass
class Told:
    """Listens to a stage."""

    events: list[tuple[str, dict[str, Any]]]

    def __call__(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))


@dataclass(frozen=True)
class Small:
    """Stages called one by one under a root; each returns its artifact's address."""

    root: str

    def run(self, call: str, config: Any, inputs: Mapping[str, str]) -> str:
        stage: Any = getattr(stages, call)
        stage(config, inputs, self.root)
        return artifact_url(config, input_digests(inputs), self.root)

    def prepare(self, source: str, *, labelled: bool, **settings: Any) -> str:
        ingest = IngestConfig(num_classes=NUM_CLASSES if labelled else None, images_per_part=IMAGES_PER_PART)
        return self.run("prepare", PrepareConfig(ingest=ingest, **settings), {"source": source})

    def prepare_all(self, sources: Mapping[str, str]) -> dict[str, str]:
        return {split: self.prepare(url, labelled=split != "unlabelled") for split, url in sources.items()}

    def teacher(self, data: Mapping[str, str], seed: int = 0) -> str:
        fit = FIT.model_copy(update={"seed": seed})
        return self.run("fit", fit, {"labelled": data["labelled"], "validation": data["validation"]})

    def selection(self, data: Mapping[str, str], checkpoint: str, **inputs: str) -> str:
        predictions = self.run("predict", LABELS, {"checkpoint": checkpoint, "images": data["unlabelled"]})
        given = {"predictions": predictions, "images": data["unlabelled"], "labelled": data["labelled"], **inputs}
        return self.run("select", SELECT, given)


def stored(root: str) -> dict[str, tuple[int, bytes]]:
    """Every file under a root on disk: time of its last change, and its bytes."""
    files = [path for path in Path(root).rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}
