"""Measuring a checkpoint as a stage."""

from typing import Any

import numpy as np
import pytest

from noisystudent_core import stages
from noisystudent_core.config import EvaluateConfig, IngestConfig, PrepareConfig
from noisystudent_core.data.parts import read_images
from noisystudent_core.data.schemas import EVALUATIONS, distributions, from_bytes
from noisystudent_core.errors import LabelError
from noisystudent_core.storage.manifest import Artifact
from tests.stages.small import DISTRIBUTIONS, Small

ON_TEST = EvaluateConfig(benchmark="test", batch_size=4)


def test_numbers_are_those_of_the_labels(small: Small, data: dict[str, str]) -> None:
    inputs = {"checkpoint": small.teacher(data), "images": data["test"]}
    manifest = stages.evaluate(ON_TEST, inputs, small.root)
    labelled = Artifact.open(small.run("predict", DISTRIBUTIONS, inputs))
    truth = read_images(Artifact.open(data["test"]), Artifact.open(data["test"]).manifest.parts[0], ["label"])["label"]
    found = _table(labelled, "label", "probabilities")
    probabilities = np.array([row["probabilities"] for row in found])
    right = [row["label"] == label for row, label in zip(found, truth.to_pylist(), strict=True)]
    metrics = manifest.facts["metrics"]
    assert metrics["top1"] == pytest.approx(100 * sum(right) / 9)
    assert metrics["loss"] == pytest.approx(-np.log(probabilities[range(9), truth.to_pylist()]).mean(), abs=2e-3)
    assert "top5" not in metrics  # three classes
    assert manifest.facts["num_images"] == 9


def _table(artifact: Artifact, *columns: str) -> list[dict[str, Any]]:

    (part,) = artifact.manifest.parts
    return from_bytes(artifact.read(part), distributions(3), part.path, list(columns)).to_pylist()


def test_artifact_has_a_row_a_metric(small: Small, data: dict[str, str]) -> None:
    inputs = {"checkpoint": small.teacher(data), "images": data["validation"]}
    artifact = Artifact.open(small.run("evaluate", EvaluateConfig(benchmark="validation"), inputs))
    (part,) = artifact.manifest.parts
    rows = from_bytes(artifact.read(part), EVALUATIONS, part.path).to_pylist()
    found, facts = {row["metric"]: row["value"] for row in rows}, artifact.manifest.facts
    assert {metric: value for metric, value in found.items() if "/" not in metric} == facts["metrics"]
    assert facts["arrays"]["class_images"] == {"axes": ["class"], "values": [3, 3, 3]}
    assert [found[f"class_images/{label}"] for label in range(3)] == [3, 3, 3]
    assert {"top1", "loss", "macro_f1", "ece"} == facts["metrics"].keys()
    (shared,) = {(row["model"], row["benchmark"], row["num_images"]) for row in rows}
    assert shared == (Artifact.open(inputs["checkpoint"]).manifest.content_digest, "validation", 9)


def test_undecodable_images_are_left_out_of_the_count(
    small: Small, data: dict[str, str], picture: Any, write_source: Any
) -> None:
    images = [picture(number, number % 3) for number in range(9)]
    source = write_source(f"{small.root}/bad.parquet", [*images, b"no image"], [0, 1, 2] * 3 + [0])
    bad = small.prepare(source, labelled=True, max_bad_fraction=0.2)
    manifest = stages.evaluate(ON_TEST, {"checkpoint": small.teacher(data), "images": bad}, small.root)
    assert Artifact.open(bad).manifest.drops == {"not_an_image": 1}
    assert manifest.facts["num_images"] == 9


def test_images_of_other_classes_are_refused(
    small: Small, data: dict[str, str], picture: Any, write_source: Any
) -> None:
    source = write_source(f"{small.root}/four.parquet", [picture(n) for n in range(4)], [0, 1, 2, 3])
    four = small.run("prepare", PrepareConfig(ingest=IngestConfig(num_classes=4)), {"source": source})
    with pytest.raises(LabelError, match="the checkpoint has 3 classes, the data 4"):
        stages.evaluate(ON_TEST, {"checkpoint": small.teacher(data), "images": four}, small.root)


def test_classes_may_be_known_by_their_names(
    small: Small, data: dict[str, str], picture: Any, write_source: Any
) -> None:
    source = write_source(f"{small.root}/named.parquet", [picture(n, n % 3) for n in range(9)], [0, 1, 2] * 3)
    settings = PrepareConfig(ingest=IngestConfig(class_names=("ant", "bee", "cat")), read_labels=True)
    named = small.run("prepare", settings, {"source": source})
    inputs = {"checkpoint": small.teacher(data), "images": named}
    assert stages.evaluate(ON_TEST, inputs, small.root).facts["num_images"] == 9


def test_unlabelled_images_are_refused(small: Small, data: dict[str, str]) -> None:
    with pytest.raises(LabelError, match="its images have no labels; prepare their source with num_classes"):
        stages.evaluate(ON_TEST, {"checkpoint": small.teacher(data), "images": data["unlabelled"]}, small.root)
