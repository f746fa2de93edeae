"""Selection as a stage: after labelling, before the students, found again. Its rules: pseudo_labels/test_select."""

from collections.abc import Callable

import pytest

from noisystudent_core import stages
from noisystudent_core.config import ExclusionsConfig
from noisystudent_core.pseudo_labels.select import select
from noisystudent_core.storage.manifest import Artifact
from tests.selections import read_selection
from tests.stages.small import LABELS, SELECT, Small

WriteSources = Callable[[str], dict[str, str]]


@pytest.fixture
def small(memory_root: str) -> Small:
    return Small(memory_root)


@pytest.fixture
def inputs(small: Small, write_sources: WriteSources) -> dict[str, str]:
    data = small.prepare_all(write_sources(small.root))
    teacher = small.teacher(data)
    return {
        "predictions": small.run("predict", LABELS, {"checkpoint": teacher, "images": data["unlabelled"]}),
        "images": data["unlabelled"],
        "labelled": data["labelled"],
        "validation_predictions": small.run("predict", LABELS, {"checkpoint": teacher, "images": data["validation"]}),
        "validation_images": data["validation"],
    }


def test_targets_are_met_and_every_image_is_accounted_for(small: Small, inputs: dict[str, str]) -> None:
    manifest = stages.select(SELECT, inputs, small.root)
    for row in manifest.facts["classes"]:
        assert row["copies"] == (row["target"] if row["selected"] else 0) <= 6
    assert manifest.num_rows == manifest.facts["num_selected"]
    assert manifest.num_rows + sum(manifest.drops.values()) == manifest.facts["num_unlabelled"] == 30
    table = [row["threshold"] for row in manifest.facts["thresholds"]]
    assert {0.0, 0.3, 0.99} <= set(table)
    assert stages.select(SELECT, inputs, small.root) == manifest


def test_excluded_images_are_not_selected(small: Small, inputs: dict[str, str]) -> None:
    exclusions = small.run("exclusions", ExclusionsConfig(), {"unlabelled": inputs["images"], "test": inputs["images"]})
    some = small.run("exclusions", ExclusionsConfig(), {"unlabelled": inputs["images"], "test": inputs["labelled"]})
    assert (Artifact.open(exclusions).manifest.num_rows, Artifact.open(some).manifest.num_rows) == (30, 0)
    whole, unchanged = (stages.select(SELECT, inputs | given, small.root) for given in ({}, {"exclusions": some}))
    assert whole.content_digest == unchanged.content_digest
    with pytest.raises(ValueError, match="none of 30 images is selected"):
        stages.select(SELECT, inputs | {"exclusions": exclusions}, small.root)


def test_function_for_users_selects_the_same(small: Small, inputs: dict[str, str]) -> None:
    predictions, images, theirs = inputs["predictions"], inputs["images"], f"{small.root}/mine"
    ours = small.run("select", SELECT, {"predictions": predictions, "images": images})
    select(predictions, images, theirs, threshold=0.0, num_images_per_class=6, seed=0)
    assert read_selection(theirs).equals(read_selection(ours))
