"""Images made worse: the same for every model, whatever the parts, once; and the models measured on them."""

from typing import Any

import numpy as np
import pytest
import torch

from noisystudent_core import stages
from noisystudent_core.config import IngestConfig, PrepareConfig
from noisystudent_core.config.evaluation import (
    Adversarial,
    CorruptConfig,
    Corruptions,
    EvaluateConfig,
    Perturbations,
)
from noisystudent_core.data.parts import labelled_batches, labelled_rows
from noisystudent_core.errors import ConfigurationError, LabelError, SourceError
from noisystudent_core.evaluation import corruptions, perturbations
from noisystudent_core.stages.corrupt import stored_images, stored_sequences
from noisystudent_core.storage.manifest import Artifact
from tests.stages.small import Small, Told

SUITE = Corruptions(severities=(1, 5), num_images=7)
CONFIG = CorruptConfig(suite=SUITE, resolution_px=32, crop_fraction=1.0)
MOVING = CorruptConfig(suite=Perturbations(num_images=3), resolution_px=32, crop_fraction=1.0)


@pytest.fixture
def test_images(data: dict[str, str]) -> dict[str, str]:
    return {"images": data["test"]}


def test_a_share_of_images_is_the_same_however_they_lie(small: Small, sources: dict[str, str]) -> None:
    def ids(images_per_part: int) -> list[bytes]:
        ingest = IngestConfig(num_classes=3, images_per_part=images_per_part)
        url = small.run("prepare", PrepareConfig(ingest=ingest), {"source": sources["test"]})
        return sorted(row for table in labelled_rows(url, 7, seed=3) for row in table["image_id"].to_pylist())

    assert len(set(ids(10))) == 7
    assert ids(10) == ids(4)


def test_every_corruption_and_severity_is_kept(small: Small, test_images: dict[str, str]) -> None:
    url = small.run("corrupt", CONFIG, test_images)
    ((original, labels),) = labelled_batches(test_images["images"], 32, 1.0, 10, 7)
    found = [(name, severity, *next(batches)) for name, severity, batches in stored_images(url, 10)]
    assert [(name, severity) for name, severity, _, _ in found] == [
        (name, severity) for name in corruptions.names(None) for severity in (1, 5)
    ]
    for name, severity, images, known in found:
        assert images.shape == (7, 3, 32, 32)
        assert torch.equal(known, labels)
        assert not torch.equal(images, original), (name, severity)
    assert "frost (procedural)" in {name for name, *_ in found}


def test_sequences_are_kept(small: Small, test_images: dict[str, str]) -> None:
    url = small.run("corrupt", MOVING, test_images)
    found = {name: list(sequences) for name, sequences in stored_sequences(url)}
    assert tuple(found) == perturbations.NAMES
    assert all(len(sequences) == 3 for sequences in found.values())
    frames, label = found["brightness"][0]
    assert frames.shape == (31, 3, 32, 32)
    assert label in range(3)


def test_killed_in_between_it_goes_on(small: Small, test_images: dict[str, str]) -> None:
    whole = Artifact.open(small.run("corrupt", CONFIG, test_images))
    for part in whole.manifest.parts[5:]:
        whole.folder.remove(part.path)
    whole.folder.remove("manifest.json")
    assert stages.corrupt(CONFIG, test_images, small.root).content_digest == whole.manifest.content_digest


def test_a_model_is_measured_on_them(small: Small, data: dict[str, str], test_images: dict[str, str]) -> None:
    teacher = small.teacher(data)
    worse = small.run("corrupt", CONFIG, test_images)
    measured = small.run("evaluate", EvaluateConfig(suite=SUITE), {"checkpoint": teacher, "corrupted": worse})
    facts = Artifact.open(measured).manifest.facts
    errors = [facts["metrics"][f"corruption_error/{name}/5"] for name in corruptions.names(None)]
    assert all(0 <= error <= 100 for error in errors)
    assert facts["num_images"] == 7
    assert facts["metrics"]["corruption_top1"] == pytest.approx(100 - facts["metrics"]["mean_corruption_error"])
    assert "mce" not in facts["metrics"]  # procedural frost, and no AlexNet of these classes

    moving = {"checkpoint": teacher, "corrupted": small.run("corrupt", MOVING, test_images)}
    found = Artifact.open(small.run("evaluate", EvaluateConfig(suite=MOVING.suite), moving)).manifest
    assert set(found.facts["metrics"]) == {
        *(f"flip_probability/{name}" for name in perturbations.NAMES),
        *("mean_flip_probability", "perturbation_top1"),
    }


def test_a_model_is_attacked(small: Small, data: dict[str, str], test_images: dict[str, str]) -> None:
    suite = Adversarial(fgsm_epsilons=(0, 8), pgd_steps=2, num_images=5)
    inputs = {"checkpoint": small.teacher(data), **test_images}
    facts = Artifact.open(small.run("evaluate", EvaluateConfig(suite=suite), inputs)).manifest.facts
    assert set(facts["metrics"]) == {"fgsm_0/top1", "fgsm_8/top1", "pgd_16/top1"}
    assert facts["num_images"] == 5


def test_images_of_another_size_are_refused(small: Small, data: dict[str, str], test_images: dict[str, str]) -> None:
    worse = small.run("corrupt", CONFIG.model_copy(update={"resolution_px": 24}), test_images)
    with pytest.raises(ConfigurationError, match=r"images of 24 px, the checkpoint takes 32; corrupt"):
        small.run("evaluate", EvaluateConfig(suite=SUITE), {"checkpoint": small.teacher(data), "corrupted": worse})


def test_unlabelled_images_are_refused(small: Small, data: dict[str, str]) -> None:
    with pytest.raises(LabelError, match="0 labelled images; give a set"):
        small.run("corrupt", CONFIG, {"images": data["unlabelled"]})


def test_frost_is_of_the_folder_that_is_given(small: Small, test_images: dict[str, str], picture: Any) -> None:
    folder = Artifact.open(test_images["images"]).folder / "frost"
    with pytest.raises(SourceError, match="no such folder"):
        small.run("corrupt", CONFIG, {**test_images, "frost": folder.url})
    folder.publish("frost1.png", picture(1, size_px=64))
    given = small.run("corrupt", CONFIG, {**test_images, "frost": folder.url})
    names = {name for name, _ in Artifact.open(given).manifest.facts["kinds"]}
    assert "frost" in names
    assert "frost (procedural)" not in names


def test_kinds_differ_from_image_to_image(small: Small, test_images: dict[str, str]) -> None:
    url = small.run("corrupt", CONFIG, test_images)
    ((original, _),) = labelled_batches(test_images["images"], 32, 1.0, 10, 7)
    noise = {(name, severity): next(batches)[0] for name, severity, batches in stored_images(url, 10)}
    added = noise["gaussian_noise", 1].int() - original.int()
    assert len({np.asarray(row).tobytes() for row in added}) == 7


def test_progress_is_told(small: Small, test_images: dict[str, str]) -> None:
    told = Told([])
    stages.corrupt(CONFIG, test_images, small.root, told)
    said = [fields for event, fields in told.events if event == "progress"]
    assert [fields["done"] for fields in said] == list(range(7, 7 * 30 + 1, 7))  # seven images of thirty kinds
    assert {(fields["total"], fields["unit"]) for fields in said} == {(7 * 30, "images")}
