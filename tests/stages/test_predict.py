"""Labelling part by part: only what is missing, in any grouping, of all images or of a selection."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from noisystudent_core import stages
from noisystudent_core.data.parts import read_images
from noisystudent_core.data.resident import read_selection, rows_of_part
from noisystudent_core.data.schemas import PREDICTIONS, distributions, from_bytes
from noisystudent_core.errors import CorruptArtifactError
from noisystudent_core.storage.manifest import Artifact
from tests.stages.small import DISTRIBUTIONS, LABELS, Small, Told, stored

WriteSources = Callable[[str], dict[str, str]]


@pytest.fixture
def small(root: str) -> Small:
    return Small(root)


@pytest.fixture
def data(small: Small, sources: dict[str, str]) -> dict[str, str]:
    return small.prepare_all(sources)


@pytest.fixture
def inputs(small: Small, data: dict[str, str]) -> dict[str, str]:
    """A teacher, and unlabelled images in three parts of ten."""
    return {"checkpoint": small.teacher(data), "images": data["unlabelled"]}


def predictions(root: str) -> dict[str, tuple[int, bytes]]:
    """The labelled parts under a root, wherever they are shared."""
    return {path: file for path, file in stored(f"{root}/predictions").items() if path.endswith(".parquet")}


def test_every_image_has_a_label_in_the_order_of_its_part(inputs: dict[str, str], root: str) -> None:
    manifest = stages.predict(LABELS, inputs, root)
    found, images = Artifact.open(f"{root}/predictions/{manifest.key}"), Artifact.open(inputs["images"])
    assert manifest.num_rows == 30
    assert manifest.facts == {"image_parts": [0, 1, 2], "num_classes": 3}
    for part, image_part in zip(manifest.parts, images.manifest.parts, strict=True):
        rows = from_bytes(found.read(part), PREDICTIONS, part.path)
        assert rows["image_id"].equals(read_images(images, image_part, ["image_id"])["image_id"])
        assert rows["label"].null_count == 0


def test_of_an_appended_part_only_that_part_is_labelled(
    small: Small, data: dict[str, str], picture: Any, write_source: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "unlabelled"
    write_source(str(folder / "a.parquet"), [picture(number, number % 3) for number in range(20)])
    first = {"checkpoint": small.teacher(data), "images": small.prepare(str(folder), labelled=False)}
    stages.predict(LABELS, first, small.root)
    before = predictions(small.root)
    assert len(before) == 2

    write_source(str(folder / "b.parquet"), [picture(number) for number in range(20, 27)])
    second = first | {"images": small.prepare(str(folder), labelled=False)}
    assert stages.plan_predictions(LABELS, second, small.root, num_groups=8) == [[2]]
    told = Told([])
    manifest = stages.predict(LABELS, second, small.root, told)
    assert [fields for event, fields in told.events if event == "progress"] == [
        {"done": 7, "total": 7, "unit": "images"}
    ]
    after = predictions(small.root)
    assert {path: file for path, file in after.items() if path in before} == before  # neither written nor touched
    assert len(after) == 3
    assert manifest.num_rows == 27


def test_groups_share_out_what_is_missing(inputs: dict[str, str], root: str) -> None:
    assert stages.plan_predictions(LABELS, inputs, root, num_groups=2) == [[0, 2], [1]]
    assert stages.plan_predictions(LABELS, inputs, root, num_groups=500) == [[0], [1], [2]]
    assert stages.predict_group(LABELS, inputs, root, parts=[1]) == 10
    assert stages.predict_group(LABELS, inputs, root, parts=[1]) == 0
    assert stages.plan_predictions(LABELS, inputs, root, num_groups=2) == [[0], [2]]
    stages.predict(LABELS, inputs, root)
    assert stages.plan_predictions(LABELS, inputs, root, num_groups=2) == []


@pytest.mark.parametrize("groups", [[[0, 1, 2]], [[2], [0], [1]], [[1, 2], [0, 1]], [[1]], []])
@pytest.mark.parametrize("config", [LABELS, DISTRIBUTIONS], ids=["label", "distribution"])
def test_any_grouping_gives_the_manifest_of_one_pass(
    inputs: dict[str, str], root: str, memory_root: str, groups: list[list[int]], config: Any
) -> None:
    for parts in groups:
        stages.predict_group(config, inputs, memory_root, parts=parts)
    assert stages.predict(config, inputs, memory_root) == stages.predict(config, inputs, root)


def test_killed_pass_goes_on_with_what_is_missing(inputs: dict[str, str], root: str) -> None:
    stages.predict_group(LABELS, inputs, root, parts=[0, 2])
    before = predictions(root)
    stages.predict(LABELS, inputs, root)
    after = predictions(root)
    assert (len(before), len(after)) == (2, 3)
    assert {path: file for path, file in after.items() if path in before} == before


def test_models_do_not_share_labels(small: Small, data: dict[str, str], inputs: dict[str, str], root: str) -> None:
    first = stages.predict(LABELS, inputs, root)
    other = stages.predict(LABELS, inputs | {"checkpoint": small.teacher(data, seed=1)}, root)
    assert not {part.path for part in first.parts} & {part.path for part in other.parts}


def test_settings_do_not_share_labels(inputs: dict[str, str], root: str) -> None:
    paths = [
        {part.path for part in stages.predict(config, inputs, root).parts}
        for config in (LABELS, DISTRIBUTIONS, LABELS.model_copy(update={"batch_size": 8}))
    ]
    assert not any(first & second for first, second in itertools.combinations(paths, 2))


def test_of_a_selection_its_rows_alone_are_labelled(
    small: Small, data: dict[str, str], inputs: dict[str, str], root: str
) -> None:
    selection = small.selection(data, inputs["checkpoint"])
    table = read_selection(selection)
    told = Told([])
    manifest = stages.predict(DISTRIBUTIONS, {**inputs, "selection": selection}, root, told)
    assert manifest.num_rows == len(table) < 30
    assert told.events[-1][1]["total"] == len(table)
    found = Artifact.open(f"{root}/predictions/{manifest.key}")
    whole = _by_id(Artifact.open(small.run("predict", DISTRIBUTIONS, inputs)))
    for index, part in zip(manifest.facts["image_parts"], manifest.parts, strict=True):
        rows = from_bytes(found.read(part), distributions(3), part.path)
        chosen = rows_of_part(table, index)
        assert rows["image_id"].equals(chosen["image_id"])
        assert rows["label"].equals(chosen["label"])  # the same model selected them
        for row in rows.to_pylist():
            assert row["probabilities"] == pytest.approx(whole[row["image_id"]], abs=2e-3)  # another batch


def _by_id(artifact: Artifact) -> Mapping[bytes, list[float]]:
    tables = [from_bytes(artifact.read(part), distributions(3), part.path) for part in artifact.manifest.parts]
    return {row["image_id"]: row["probabilities"] for table in tables for row in table.to_pylist()}


def test_changed_image_part_is_found_before_it_is_labelled(inputs: dict[str, str], root: str) -> None:
    images = Artifact.open(inputs["images"])
    file = Path(images.url, images.manifest.parts[1].path).resolve()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptArtifactError, match=r"part .*part-00001\.parquet has digest"):
        stages.predict(LABELS, inputs, root)
    assert len(predictions(root)) == 1  # what came before it stays


def test_an_empty_part_of_a_split_is_labelled(small: Small, picture: Any, write_source: Any, tmp_path: Path) -> None:
    labels = [0, 1, 2] * 20  # six parts, and one validation image a class
    images = [picture(number, label) for number, label in enumerate(labels)]
    source = write_source(str(tmp_path / "labelled.parquet"), images, labels)
    split = {
        share: small.prepare(source, labelled=True, share=share, validation_share=0.05)
        for share in ("training", "validation")
    }
    teacher = small.teacher({"labelled": split["training"], "validation": split["validation"]})
    validation = Artifact.open(split["validation"]).manifest
    assert (len(validation.parts), validation.num_rows) == (6, 3)
    manifest = stages.predict(LABELS, {"checkpoint": teacher, "images": split["validation"]}, small.root)
    assert [part.num_rows for part in manifest.parts] == [part.num_rows for part in validation.parts]
    assert 0 in [part.num_rows for part in manifest.parts]
