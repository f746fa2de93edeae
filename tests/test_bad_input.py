"""Bad input is refused before any training, in one line that holds the value, the limit and the remedy."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from noisystudent_core import errors, stages
from noisystudent_core.config import (
    EvaluateConfig,
    IngestConfig,
    ModelConfig,
    NoisyStudentConfig,
    PrepareConfig,
    apply_overrides,
)
from noisystudent_core.models import checkpoints
from noisystudent_core.models.architectures import create_model
from noisystudent_core.pseudo_labels.select import select
from noisystudent_core.recipes import configure, digits
from noisystudent_core.storage.filesystem import Folder, check_writable
from noisystudent_core.storage.manifest import NAME, Artifact, publish_manifest, publish_part


@dataclass(frozen=True)
class World:
    """An empty folder, and what fills it."""

    folder: Path
    picture: Callable[..., bytes]
    write_source: Callable[..., str]

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def source(self, images: int | list[bytes] = 6, labels: Any = None) -> str:
        data = [self.picture(n) for n in range(images)] if isinstance(images, int) else images
        given = [row % 3 for row in range(len(data))] if labels is None else labels
        return self.write_source(self.path("a.parquet"), data, given)

    def prepared(self, source: str, num_classes: int | None = 3) -> str:
        config = PrepareConfig(ingest=IngestConfig(num_classes=num_classes))
        stages.prepare(config, {"source": source}, self.path("root"), out=self.path("images"))
        return self.path("images")

    def checkpoint(self, num_classes: int) -> str:
        """An unfitted checkpoint of so many classes."""
        model = ModelConfig(name="test_resnet", resolution_px=32)
        files = checkpoints.encode(create_model(model, num_classes, 0, 0.1), model)
        folder = Folder.at(self.path("checkpoint"))
        parts = tuple(publish_part(folder, name, data, 0) for name, data in files.items())
        publish_manifest(folder.url, digits().fit_teacher(), {}, parts)
        return folder.url


def run_of(**overrides: Any) -> NoisyStudentConfig:
    return apply_overrides(digits(), {path.replace("__", "."): value for path, value in overrides.items()})


def checked(config: NoisyStudentConfig) -> None:
    stages.check(config, {}, "memory://unused")


def evaluated(world: World, checkpoint: str) -> None:
    images = world.prepared(world.source())
    stages.evaluate(EvaluateConfig(), {"checkpoint": checkpoint, "images": images}, world.path("root"))


def manifest_of_format(world: World, number: int) -> None:
    folder = Folder.at(world.path("artifact"))
    folder.publish(NAME, b'{"format": %d}' % number)
    Artifact.open(folder.url)


def part_changed(world: World) -> None:
    artifact = Artifact.open(world.prepared(world.source()))
    part = artifact.manifest.parts[0]
    (Path(artifact.url) / part.path).write_bytes(bytes(part.num_bytes))
    evaluated_again = {"unlabelled": artifact.url}
    stages.exclusions(digits().exclusions(), evaluated_again, world.path("root"))


# what was done, the class of the error, and the words that it must hold: value, limit, remedy
CASES: dict[str, tuple[Callable[[World], Any], type[Exception], list[str]]] = {
    "source is missing": (
        lambda w: w.prepared(w.path("nothing.parquet")),
        errors.SourceError,
        ["nothing.parquet", "does not exist", "give a folder, a file or a glob"],
    ),
    "source is an empty folder": (
        lambda w: w.prepared(str(w.folder)),
        errors.SourceError,
        ["no *.parquet file there", "`image` and, where known, `label` columns"],
    ),
    "source has a file without bytes": (
        lambda w: (w.folder / "a.parquet").write_bytes(b"") or w.prepared(str(w.folder)),
        errors.SourceError,
        ["a.parquet has no bytes", "remove it or copy it again"],
    ),
    "source has no rows": (
        lambda w: w.prepared(w.source([], pa.array([], pa.int64()))),
        errors.SourceError,
        ["a.parquet", "no image in it", "give a source with at least one row"],
    ),
    "source is no Parquet": (
        lambda w: (w.folder / "a.parquet").write_bytes(b"words") and w.prepared(w.path("a.parquet")),
        errors.SourceError,
        ["a.parquet", "not a Parquet file", "copy it again"],
    ),
    "label outside the classes": (
        lambda w: w.prepared(w.source(labels=[0, 1, 2, 3, 0, 1])),
        errors.LabelError,
        ["a.parquet", "row 3 has label 3", "must be 0 to 2", "num_classes=3"],
    ),
    "label is null": (
        lambda w: w.prepared(w.source(labels=[0, 1, None, 2, 0, 1])),
        errors.LabelError,
        ["row 2 has no label", "must be 0 to 2"],
    ),
    "label is no integer": (
        lambda w: w.prepared(w.source(labels=[0.5] * 6)),
        errors.LabelError,
        ["labels are double", "must be integers from 0, or names of classes"],
    ),
    "class without an image": (
        lambda w: w.prepared(w.source(), num_classes=4),
        errors.LabelError,
        ["no labelled image for class 3", "4 classes", "add images or lower data.num_classes"],
    ),
    "image with two labels": (
        lambda w: w.prepared(w.source([w.picture(0), w.picture(1), w.picture(2), w.picture(0)], [0, 1, 2, 1])),
        errors.LabelError,
        ["has labels 0 and 1", "must have one", "remove it"],
    ),
    "too many bad images": (
        lambda w: w.prepared(w.source([b"", b"words", w.picture(0), w.picture(1)])),
        errors.BadImagesError,
        ["2 of 4 images", "empty 1", "not_an_image 1", "data.max_bad_fraction=0.01", "repair the source or raise it"],
    ),
    "root cannot be written": (
        lambda w: (w.folder / "file").write_bytes(b"1") and check_writable(w.path("file")),
        errors.RootError,
        ["file", "cannot be written", "check the path and its rights"],
    ),
    "root of an unknown protocol": (
        lambda w: Folder.at("s4://bucket/root"),
        errors.ConfigurationError,
        ["s4://bucket/root", "file, s3 and memory are tested"],
    ),
    "unknown recipe": (
        lambda w: configure("digit"),
        errors.ConfigurationError,
        ["'digit'", "must be one of digits, finetune"],
    ),
    "unknown override": (
        lambda w: run_of(selection__treshold=0.5),
        errors.ConfigurationError,
        ["'selection.treshold'", "no setting named 'treshold'", "there is threshold"],
    ),
    "override of a student that is not there": (
        lambda w: run_of(iterations__7__train__steps=5),
        errors.ConfigurationError,
        ["'iterations.7.train.steps'", "'7' is not one of 0 to 1", "nor *"],
    ),
    "threshold of one": (
        lambda w: run_of(selection__threshold=1.0),
        errors.ConfigurationError,
        ["selection.threshold=1.0", "less than 1"],
    ),
    "threshold below zero": (
        lambda w: run_of(selection__threshold=-0.1),
        errors.ConfigurationError,
        ["selection.threshold=-0.1", "greater than or equal to 0"],
    ),
    "threshold of one, in `select`": (
        lambda w: select("a", "b", w.path("out"), threshold=1.0, num_images_per_class=5, seed=0),
        errors.ConfigurationError,
        ["threshold=1.0", "less than 1"],
    ),
    "target below one": (
        lambda w: run_of(selection__num_images_per_class=0),
        errors.ConfigurationError,
        ["selection.num_images_per_class=0", "greater than or equal to 1"],
    ),
    "ratio below one": (
        lambda w: run_of(**{"iterations__*__pseudo_labels__unlabelled_ratio": 0.5}),
        errors.ConfigurationError,
        ["iterations.0.pseudo_labels.unlabelled_ratio=0.5", "greater than or equal to 1"],
    ),
    "student smaller than its teacher": (
        lambda w: checked(run_of(teacher__model__name="resnet18")),
        errors.ConfigurationError,
        ["student 1 (test_resnet)", "its teacher 11,", "must not be smaller", "set allow_smaller_student"],
    ),
    "second student smaller than the first": (
        lambda w: checked(run_of(iterations__0__model__name="resnet18")),
        errors.ConfigurationError,
        ["student 2 (test_resnet)", "must not be smaller", "choose a larger net"],
    ),
    "unknown model": (
        lambda w: checked(run_of(teacher__model__name="efficientnet_b00")),
        errors.ConfigurationError,
        ["'efficientnet_b00'", "no such architecture", "similar: efficientnet_b0"],
    ),
    "unknown model of the selector": (
        lambda w: checked(run_of(selector=digits().teacher.model_dump(), selector__model__name="resnt18")),
        errors.ConfigurationError,
        ["'resnt18'", "similar: ", "resnet18"],
    ),
    "image size the net cannot take": (
        lambda w: checked(run_of(teacher__model__name="convnext_tiny", teacher__model__resolution_px=16)),
        errors.ConfigurationError,
        ["resolution_px=16", "convnext_tiny cannot take images of this size", "choose a larger size"],
    ),
    "magnitude beyond the dialect": (
        lambda w: checked(run_of(teacher__noise__magnitude=31, teacher__noise__dialect="torchvision")),
        errors.ConfigurationError,
        ["magnitude=31", "[0, 30]", "'torchvision'"],
    ),
    "checkpoint of other classes": (
        lambda w: evaluated(w, w.checkpoint(num_classes=4)),
        errors.LabelError,
        ["checkpoint has 4 classes", "the data 3", "give a checkpoint"],
    ),
    "manifest of a newer version": (
        lambda w: manifest_of_format(w, 2),
        errors.ManifestVersionError,
        ["format 2", "reads up to 1", "upgrade noisy-student"],
    ),
    "part changed after its manifest": (
        part_changed,
        errors.CorruptArtifactError,
        ["has digest", "the manifest lists", "restore it, or delete"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_in_words(
    case: str, tmp_path: Path, picture: Callable[..., bytes], write_source: Callable[..., str]
) -> None:
    action, kind, words = CASES[case]
    with pytest.raises(kind) as caught:
        action(World(tmp_path, picture, write_source))
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message
    assert isinstance(caught.value, errors.NoisyStudentError)
    assert not caught.value.retryable or isinstance(caught.value, errors.RootError)  # refused before any task


def test_smaller_student_can_be_allowed() -> None:
    sizes = stages.check(run_of(teacher__model__name="resnet18", allow_smaller_student=True), {}, "memory://unused")
    assert sizes[0] > sizes[1] == sizes[2]


def test_good_configuration_passes() -> None:
    checked(digits())


def test_refused_run_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigurationError):
        stages.check(run_of(teacher__model__name="resnet18"), {}, str(tmp_path))
    assert list(tmp_path.iterdir()) == []
