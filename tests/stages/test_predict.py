"""Labelling part by part: only what is missing, in any grouping, of all images or of a selection."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from noisystudent_core import stages
from noisystudent_core.config import IngestConfig, InputNoise, PredictConfig, PrepareConfig, TeacherNoise
from noisystudent_core.data.parts import read_images
from noisystudent_core.data.schemas import IMAGES, PREDICTIONS, distributions, from_bytes, to_bytes
from noisystudent_core.errors import BadImagesError, ConfigurationError
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import Artifact, publish_manifest, publish_part
from tests.selections import read_selection, rows_of_part
from tests.stages.small import DISTRIBUTIONS, FIT, LABELS, STUDENT, Small, Told, stored

WriteSources = Callable[[str], dict[str, str]]
INPUT_NOISE = InputNoise(dialect="torchvision", num_ops=1, magnitude=9, crop="resized", flip=True)
WHOLE = InputNoise(num_ops=0, crop="none", flip=False)


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
    assert manifest.facts == {"image_parts": [0, 1, 2], "num_classes": 3, "set_aside": []}
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
    assert plan(second, small.root, 8) == [[2]]
    told = Told([])
    manifest = stages.predict(LABELS, second, small.root, told)
    assert [fields for event, fields in told.events if event == "progress"] == [
        {"done": 7, "total": 7, "unit": "images", "parts": 1}
    ]
    after = predictions(small.root)
    assert {path: file for path, file in after.items() if path in before} == before  # neither written nor touched
    assert len(after) == 3
    assert manifest.num_rows == 27


def _damage(url: str) -> None:
    """Change one bit of the second of an artifact's parts."""
    images = Artifact.open(url)
    file = Path(images.url, images.manifest.parts[1].path).resolve()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def plan(inputs: dict[str, str], root: str, num_groups: int) -> list[list[int]]:
    groups = stages.plan_predict(LABELS, inputs, root, num_groups=num_groups)
    assert all(group["num_images"] > 0 for group in groups)
    return [group["parts"] for group in groups]


def test_groups_share_out_what_is_missing(inputs: dict[str, str], root: str) -> None:
    assert plan(inputs, root, 2) == [[0, 2], [1]]
    assert plan(inputs, root, 500) == [[0], [1], [2]]
    assert stages.predict_group(LABELS, inputs, root, parts=[1]) == 10
    assert stages.predict_group(LABELS, inputs, root, parts=[1]) == 0
    assert plan(inputs, root, 2) == [[0], [2]]
    stages.predict(LABELS, inputs, root)
    assert plan(inputs, root, 2) == []


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


def test_changed_image_part_costs_no_other(inputs: dict[str, str], root: str) -> None:
    _damage(inputs["images"])
    with pytest.raises(BadImagesError, match=r"10 of 30 .* max_missing=0.01 .*part-00001\.parquet has digest"):
        stages.predict(LABELS, inputs, root)
    assert len(predictions(root)) == 2


@pytest.mark.parametrize("mode", ["resident", "streaming"])
def test_a_student_learns_from_what_its_teacher_could_label(
    small: Small, data: dict[str, str], inputs: dict[str, str], mode: Any
) -> None:
    selected = {"images": data["unlabelled"], "selection": small.selection(data, inputs["checkpoint"])}
    _damage(data["unlabelled"])
    lenient = DISTRIBUTIONS.model_copy(update={"max_missing": 1.0})
    labelled = small.run("predict", lenient, {"checkpoint": inputs["checkpoint"], **selected})
    manifest = Artifact.open(labelled).manifest
    assert [aside["reason"].split(":")[0] for aside in manifest.facts["set_aside"]] == ["CorruptArtifactError"]
    missing = manifest.parts[1].num_rows
    assert manifest.drops == {"set_aside": missing}
    rows = from_bytes(Artifact.open(labelled).read(manifest.parts[1]), distributions(3), "it")
    assert rows["reason"].null_count == 0
    assert rows["label"].null_count == missing

    execution = STUDENT.execution.model_copy(update={"data": mode, "num_workers": 0})
    fit = STUDENT.model_copy(update={"execution": execution})
    inputs = {"labelled": data["labelled"], "validation": data["validation"], **selected, "predictions": labelled}
    assert Artifact.open(small.run("fit", fit, inputs)).manifest.facts["num_parameters"] > 0


def test_a_part_without_rows_is_labelled(inputs: dict[str, str], small: Small) -> None:
    images, url = Artifact.open(inputs["images"]), f"{small.root}/images/by-hand"
    first = read_images(images, images.manifest.parts[0], IMAGES.names)
    parts = tuple(
        publish_part(Folder.at(url), f"{index}.parquet", to_bytes(table, IMAGES), len(table))
        for index, table in enumerate([first, first.slice(0, 0)])
    )
    publish_manifest(url, PrepareConfig(ingest=IngestConfig()), {}, parts)
    manifest = stages.predict(LABELS, {"checkpoint": inputs["checkpoint"], "images": url}, small.root)
    assert [part.num_rows for part in manifest.parts] == [10, 0]


# the noised teacher (table 6)


def noised(
    input_noise: InputNoise = INPUT_NOISE, dropout: float = 0.5, stochastic_depth: float = 0.5, seed: int = 0
) -> PredictConfig:
    noise = TeacherNoise(input_noise=input_noise, dropout=dropout, stochastic_depth=stochastic_depth, seed=seed)
    return DISTRIBUTIONS.model_copy(update={"noise": noise})


@pytest.fixture
def learnt(small: Small, data: dict[str, str]) -> dict[str, str]:
    """A teacher whose residual branches, zeros at first, have come to matter."""
    optimizer = FIT.train.optimizer.model_copy(update={"learning_rate": 0.5})
    train = FIT.train.model_copy(update={"steps": 10, "optimizer": optimizer})
    inputs = {"labelled": data["labelled"], "validation": data["validation"]}
    return {
        "checkpoint": small.run("fit", FIT.model_copy(update={"train": train}), inputs),
        "images": data["unlabelled"],
    }


def labels_of(config: PredictConfig, inputs: Mapping[str, str], small: Small) -> dict[bytes, list[float]]:
    return dict(_by_id(Artifact.open(small.run("predict", config, inputs))))


@pytest.mark.parametrize(
    "config",
    [noised(WHOLE, 0.5, 0), noised(WHOLE, 0, 0.5), noised(dropout=0, stochastic_depth=0)],
    ids=["dropout", "depth", "input"],
)
def test_each_noise_of_a_noised_teacher_is_felt(small: Small, learnt: dict[str, str], config: PredictConfig) -> None:
    clean, found = labels_of(DISTRIBUTIONS, learnt, small), labels_of(config, learnt, small)
    assert found.keys() == clean.keys()
    far = [image for image in clean if found[image] != pytest.approx(clean[image], abs=5e-3)]
    assert len(far) > 10
    # the net that is kept in memory for the next pass is not noised with it
    assert labels_of(DISTRIBUTIONS.model_copy(update={"batch_size": 5}), learnt, small) == {
        image: pytest.approx(values, abs=2e-3) for image, values in clean.items()
    }


def test_teacher_with_noise_of_rate_zero_labels_as_without(small: Small, learnt: dict[str, str]) -> None:
    assert labels_of(noised(WHOLE, 0, 0), learnt, small) == labels_of(DISTRIBUTIONS, learnt, small)


def test_noised_labels_are_the_same_bytes_again_in_any_grouping(
    learnt: dict[str, str], root: str, memory_root: str
) -> None:
    first = stages.predict(noised(), learnt, root)
    for parts in ([2], [0, 1]):
        stages.predict_group(noised(), learnt, memory_root, parts=parts)
    assert stages.predict(noised(), learnt, memory_root) == first
    assert stages.predict(noised(seed=1), learnt, root).content_digest != first.content_digest


def test_noise_of_an_image_is_its_own_in_another_part_or_selection(
    small: Small, data: dict[str, str], learnt: dict[str, str], picture: Any, write_source: Any, tmp_path: Path
) -> None:
    whole = labels_of(noised(), learnt, small)
    selection = small.selection(data, learnt["checkpoint"])
    selected = labels_of(noised(), {**learnt, "selection": selection}, small)
    assert 0 < len(selected) < 30
    # the unlabelled images of `sources` backwards, other ones between them
    kinds = ("PNG", "JPEG")
    mixed = [image for n in reversed(range(30)) for image in (picture(500 + n), picture(12 + n, n % 3, kinds[n % 2]))]
    other = small.prepare(write_source(str(tmp_path / "mixed.parquet"), mixed), labelled=False)
    moved = labels_of(noised(), {**learnt, "images": other}, small)
    assert moved.keys() > whole.keys()
    for found in (selected, moved):
        for image in found.keys() & whole.keys():
            assert found[image] == pytest.approx(whole[image], abs=2e-3)  # another place in a batch


def test_selector_s_pass_is_without_noise_and_its_labels_are_not_a_noised_teacher_s(
    learnt: dict[str, str], root: str, memory_root: str
) -> None:
    before = stages.predict(LABELS, learnt, root)
    stages.predict(noised(), learnt, root)
    assert stages.predict(LABELS, learnt, memory_root) == before  # labelled once more
    paths = {part.path for part in stages.predict(DISTRIBUTIONS, learnt, root).parts}
    assert not paths & {part.path for part in stages.predict(noised(), learnt, root).parts}


def test_noise_that_the_teacher_cannot_carry_is_refused(small: Small, data: dict[str, str]) -> None:
    plain = FIT.model.model_copy(update={"name": "test_efficientnet", "stochastic_depth": 0.0})
    fit = FIT.model_copy(update={"model": plain})
    teacher = small.run("fit", fit, {"labelled": data["labelled"], "validation": data["validation"]})
    with pytest.raises(ConfigurationError, match=r"stochastic_depth=0.5: EfficientNet has no residual block"):
        small.run("predict", noised(), {"checkpoint": teacher, "images": data["unlabelled"]})
