"""Selected images with their bytes: the same wherever they lay before, however often it was interrupted."""

from collections.abc import Callable
from unittest.mock import patch

import pyarrow as pa
import pytest
import torch

from noisystudent_core import stages
from noisystudent_core.config import IngestConfig, MaterialiseConfig, PrepareConfig
from noisystudent_core.data.encoded import SelectedParts
from noisystudent_core.data.parts import read_images
from noisystudent_core.data.schemas import SELECTED_IMAGES, from_bytes
from noisystudent_core.errors import ConfigurationError, DataError
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import Artifact, artifact_url, input_digests
from tests.selections import read_selection
from tests.stages.small import DISTRIBUTIONS, STUDENT, Small, Told

WriteSources = Callable[[str], dict[str, str]]
CONFIG = MaterialiseConfig(images_per_part=2)


@pytest.fixture
def small(memory_root: str) -> Small:
    return Small(memory_root)


@pytest.fixture
def sources(small: Small, write_sources: WriteSources) -> dict[str, str]:
    return write_sources(small.root)


@pytest.fixture
def data(small: Small, sources: dict[str, str]) -> dict[str, str]:
    return small.prepare_all(sources)


@pytest.fixture
def teacher(small: Small, data: dict[str, str]) -> str:
    return small.teacher(data)


@pytest.fixture
def inputs(small: Small, data: dict[str, str], teacher: str) -> dict[str, str]:
    return {"images": data["unlabelled"], "selection": small.selection(data, teacher)}


def rows_of(url: str) -> list[dict[str, object]]:
    artifact = Artifact.open(url)
    tables = [from_bytes(artifact.read(part), SELECTED_IMAGES, part.path) for part in artifact.manifest.parts]
    return pa.concat_tables(tables).to_pylist()


def test_every_selected_image_is_there_with_its_bytes(small: Small, inputs: dict[str, str]) -> None:
    images = Artifact.open(inputs["images"])
    stored = [read_images(images, part, ["image_id", "image", "source"]).to_pylist() for part in images.manifest.parts]
    expected = {
        row["image_id"]: stored[row["part"]][row["row"]]
        | {"label": row["label"], "confidence": row["confidence"], "copies": row["copies"]}
        for row in read_selection(inputs["selection"]).to_pylist()
    }
    found = rows_of(small.run("materialise", CONFIG, inputs))
    assert len(found) == len(expected)
    assert {row["image_id"]: {key: row[key] for key in expected[row["image_id"]]} for row in found} == expected
    assert [row["image_id"] for row in found] != sorted(expected)


def test_neither_memory_nor_the_split_of_the_images_changes_what_is_where(
    small: Small, inputs: dict[str, str], data: dict[str, str], sources: dict[str, str], teacher: str
) -> None:
    first = stages.materialise(CONFIG, inputs, small.root)
    assert len(first.parts) > 3
    again = stages.materialise(CONFIG.model_copy(update={"memory_bytes": 1}), inputs, small.root + "/other")
    assert again.parts == first.parts
    ingest = PrepareConfig(ingest=IngestConfig(images_per_part=7))
    unlabelled = small.run("prepare", ingest, {"source": sources["unlabelled"]})
    selection = small.selection(data | {"unlabelled": unlabelled}, teacher)
    split = small.run("materialise", CONFIG, {"images": unlabelled, "selection": selection})
    whole = artifact_url(CONFIG, input_digests(inputs), small.root)
    assert [part.num_rows for part in Artifact.open(split).manifest.parts] == [part.num_rows for part in first.parts]
    columns = "image_id", "image", "label", "copies"
    here, there = ([[row[name] for name in columns] for row in rows_of(url)] for url in (whole, split))
    assert here == there


def test_the_seed_decides_where_an_image_is(small: Small, inputs: dict[str, str]) -> None:
    urls = [small.run("materialise", CONFIG.model_copy(update={"seed": seed}), inputs) for seed in (0, 1)]
    one, other = ([row["image_id"] for row in rows_of(url)] for url in urls)
    assert one != other
    assert set(one) == set(other)


@pytest.mark.parametrize("number", [1, 2, 3, 6, 8, 9])
def test_a_stage_that_is_killed_goes_on_with_the_same_bytes(small: Small, inputs: dict[str, str], number: int) -> None:
    config = CONFIG.model_copy(update={"memory_bytes": 1})
    whole = stages.materialise(config, inputs, small.root + "/whole")
    calls, publish = 0, Folder.publish

    def killed(folder: Folder, name: str, content: bytes) -> bool:
        nonlocal calls
        calls += name.endswith((".pieces", ".starts", ".parquet"))
        if calls == number:
            calls += 100
            raise KeyboardInterrupt
        return publish(folder, name, content)

    with patch.object(Folder, "publish", killed), pytest.raises(KeyboardInterrupt):
        stages.materialise(config, inputs, small.root)
    told = Told([])
    resumed = stages.materialise(config, inputs, small.root, told)
    assert resumed.parts == whole.parts
    assert told.events[-1][1]["done"] == told.events[-1][1]["total"] == 2 * whole.num_rows
    assert not Folder.at(f"{small.root}/state").sizes()


def test_a_student_is_fitted_on_them_as_on_images_and_selection(
    small: Small, data: dict[str, str], teacher: str, inputs: dict[str, str]
) -> None:
    materialised = {"images": small.run("materialise", CONFIG, inputs)}
    known = []
    for given in (inputs, materialised):
        predictions = small.run("predict", DISTRIBUTIONS, {"checkpoint": teacher, **given})
        parts = SelectedParts(given["images"], given.get("selection"), predictions)
        read = [parts.read(part, torch.arange(size)) for part, size in enumerate(parts.part_sizes)]
        images = [image for found, _ in read for image in found]
        probabilities = torch.cat([labels for _, labels in read]).tolist()
        known.append(sorted(zip(images, parts.copies.tolist(), probabilities, strict=True)))
        labelled = {"labelled": data["labelled"], "validation": data["validation"]}
        student = small.run("fit", STUDENT, {**labelled, **given, "predictions": predictions})
        assert Artifact.open(student).manifest.facts["num_steps"] == STUDENT.train.steps
    assert known[0] == known[1]
    with pytest.raises(ConfigurationError, match="none for selected_images"):
        small.run(
            "fit", STUDENT, {**labelled, **materialised, "selection": inputs["selection"], "predictions": predictions}
        )


def test_a_selection_of_other_images_is_refused(small: Small, data: dict[str, str], inputs: dict[str, str]) -> None:
    with pytest.raises(DataError, match="other images"):
        stages.materialise(CONFIG, inputs | {"images": data["test"]}, small.root)


def test_parts_that_would_be_too_large_are_refused(small: Small, inputs: dict[str, str]) -> None:
    with (
        patch("noisystudent_core.pseudo_labels.materialise.MOST_BYTES", 2000),
        pytest.raises(ConfigurationError, match=r"images_per_part=2: a part has .*, at most 2,000 fit; give"),
    ):
        stages.materialise(CONFIG, inputs, small.root)
