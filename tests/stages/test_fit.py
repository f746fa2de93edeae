"""A whole fit as a stage: what it leaves, that it is found again, and that a student needs all of its inputs."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from noisystudent_core import stages
from noisystudent_core.config import (
    ExecutionConfig,
    FitConfig,
    IngestConfig,
    InputNoise,
    OptimizerConfig,
    PrepareConfig,
    PseudoLabelConfig,
)
from noisystudent_core.data.parts import decode, read_images
from noisystudent_core.data.schemas import HISTORY, from_bytes
from noisystudent_core.data.streams import Share
from noisystudent_core.errors import ConfigurationError, CorruptArtifactError, LabelError
from noisystudent_core.models import checkpoints
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import Artifact
from noisystudent_core.training.inputs import open_streams
from tests.selections import read_selection, rows_of_part
from tests.stages.small import DISTRIBUTIONS, FIT, STUDENT, Small, Told


@pytest.fixture
def student_inputs(small: Small, data: dict[str, str]) -> dict[str, str]:
    teacher = small.teacher(data)
    selection = small.selection(data, teacher)
    labelled = {"checkpoint": teacher, "images": data["unlabelled"], "selection": selection}
    return {
        "labelled": data["labelled"],
        "validation": data["validation"],
        "images": data["unlabelled"],
        "selection": selection,
        "predictions": small.run("predict", DISTRIBUTIONS, labelled),
    }


def history(artifact: Artifact) -> list[tuple[int, str, float]]:
    part = next(part for part in artifact.manifest.parts if part.path == "history.parquet")
    rows = from_bytes(artifact.read(part), HISTORY, part.path).to_pylist()
    return [(row["step"], row["metric"], row["value"]) for row in rows]


def test_teacher_leaves_a_checkpoint_and_its_history(small: Small, data: dict[str, str]) -> None:
    artifact = Artifact.open(small.teacher(data))
    assert [part.path for part in artifact.manifest.parts] == ["model.safetensors", "config.json", "history.parquet"]
    facts = artifact.manifest.facts
    assert (facts["num_steps"], facts["num_labelled"], facts["num_parameters"]) == (3, 12, 372_979)
    rows = history(artifact)
    assert [step for step, metric, _ in rows if metric == "train/loss"] == [1, 2, 3]
    assert {metric: value for _, metric, value in rows} == facts["final"]
    assert {"validation/top1", "validation/loss", "train/loss_labelled"} <= set(facts["final"])
    assert "train/loss_unlabelled" not in facts["final"]


def test_finished_fit_is_found_again_and_says_nothing(small: Small, data: dict[str, str]) -> None:
    inputs = {"labelled": data["labelled"], "validation": data["validation"]}
    first, again = Told([]), Told([])
    manifest = stages.fit(FIT, inputs, small.root, first)
    assert [fields["done"] for event, fields in first.events if event == "progress"] == [1, 2, 3]
    assert stages.fit(FIT, inputs, small.root, again) == manifest
    assert again.events == []


def test_validation_images_of_other_classes_are_refused_before_the_first_step(
    small: Small, sources: dict[str, str]
) -> None:
    data = {
        split: small.run(
            "prepare",
            PrepareConfig(ingest=IngestConfig(num_classes=3, class_names=names)),
            {"source": sources[split]},
        )
        for split, names in (("labelled", ("ant", "bee", "cat")), ("validation", ("ant", "cat", "dog")))
    }
    told = Told([])
    with pytest.raises(LabelError, match="validation: class 1 is 'cat', of labelled 'bee': must be the same"):
        stages.fit(FIT, data, small.root, told)
    assert told.events == []


def test_one_changed_setting_is_another_artifact(small: Small, data: dict[str, str]) -> None:
    assert small.teacher(data) == small.teacher(data, seed=0) != small.teacher(data, seed=1)


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_fit_gives_the_same_bytes_under_another_root(
    small: Small, student_inputs: dict[str, str], root: str, role: str
) -> None:
    inputs = student_inputs if role == "student" else {k: student_inputs[k] for k in ("labelled", "validation")}
    config = STUDENT if role == "student" else FIT
    first, second = stages.fit(config, inputs, small.root), stages.fit(config, inputs, root)
    assert first == second
    assert all(part.num_bytes for part in first.parts)


def test_student_reports_both_losses_and_loads_by_timm_alone(student_inputs: dict[str, str], root: str) -> None:
    manifest = stages.fit(STUDENT, student_inputs, root)
    final = manifest.facts["final"]
    mean = (final["train/loss_labelled"] + 2 * final["train/loss_unlabelled"]) / 3  # ratio 2, concat_mean
    assert final["train/loss"] == pytest.approx(mean, rel=1e-5)
    net, _ = checkpoints.load(f"{root}/checkpoints/{manifest.key}", 3)
    alone = timm.create_model(f"local-dir:{root}/checkpoints/{manifest.key}", pretrained=True).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(net(images), alone(images))


@pytest.mark.parametrize("missing", ["images", "selection", "predictions"])
def test_student_without_one_of_its_inputs_is_refused(student_inputs: dict[str, str], root: str, missing: str) -> None:
    inputs = {name: url for name, url in student_inputs.items() if name != missing}
    with pytest.raises(
        ConfigurationError, match=r"a student needs images, selection \(none for selected_images\), predictions"
    ):
        stages.fit(STUDENT, inputs, root)


def test_teacher_with_pseudo_labels_is_refused(student_inputs: dict[str, str], root: str) -> None:
    with pytest.raises(ConfigurationError, match="a teacher none of them"):
        stages.fit(FIT, student_inputs, root)


def test_predictions_of_other_rows_are_refused(
    small: Small, data: dict[str, str], student_inputs: dict[str, str], root: str
) -> None:
    other = small.teacher(data, seed=1)
    selection = small.selection(data, other)
    assert selection != student_inputs["selection"]
    with pytest.raises(CorruptArtifactError, match="its images are not those of"):
        stages.fit(STUDENT, student_inputs | {"selection": selection}, root)


def test_hard_labels_are_another_fit(student_inputs: dict[str, str], root: str) -> None:
    hard = STUDENT.model_copy(update={"pseudo_labels": PseudoLabelConfig(unlabelled_ratio=2, labels="hard")})
    losses = [stages.fit(config, student_inputs, root).facts["final"] for config in (STUDENT, hard)]
    assert losses[0]["train/loss_unlabelled"] != losses[1]["train/loss_unlabelled"]


WHOLE = InputNoise(num_ops=0, crop="none", flip=False)
BOXES = InputNoise(num_ops=0, crop="resized", flip=True)


def noised_apart(**apart: Any) -> FitConfig:
    """A student whose images are moved, unless `apart` says otherwise of the unlabelled ones."""
    model = STUDENT.model.model_copy(update={"crop_fraction": 0.8, "stochastic_depth": 0.5})
    pseudo_labels = PseudoLabelConfig.model_validate({"unlabelled_ratio": 2, **apart})
    return STUDENT.model_copy(update={"model": model, "pseudo_labels": pseudo_labels})


@pytest.mark.parametrize(
    "apart", [{"noise": WHOLE}, {"noise": BOXES}, {"model_noise": False}], ids=["whole", "boxes", "no model noise"]
)
def test_noise_of_the_unlabelled_images_is_a_setting_of_its_own(
    student_inputs: dict[str, str], root: str, apart: dict[str, Any]
) -> None:
    finals = [
        stages.fit(config, student_inputs, root).facts["final"] for config in (noised_apart(), noised_apart(**apart))
    ]
    assert finals[0]["train/loss_unlabelled"] != finals[1]["train/loss_unlabelled"]


@pytest.mark.parametrize(
    ("apart", "size_px", "crop_fraction"), [({}, 32, 1.0), ({"noise": WHOLE}, 32, 0.8), ({"noise": BOXES}, 40, 1.0)]
)
def test_unlabelled_images_are_kept_as_their_own_noise_needs_them(
    student_inputs: dict[str, str], apart: dict[str, Any], size_px: int, crop_fraction: float
) -> None:
    with open_streams(noised_apart(**apart), student_inputs, Share(), torch.device("cpu")) as streams:
        assert streams.unlabelled is not None
        images, _ = streams.unlabelled.batch(0)
    artifact, selection = Artifact.open(student_inputs["images"]), read_selection(student_inputs["selection"])
    expected = []
    for index, part in enumerate(artifact.manifest.parts):
        table = read_images(artifact, part, ["image", "reason"])
        expected += decode(table.take(rows_of_part(selection, index)["row"]), size_px, crop_fraction)[0]
    assert len(images) == 12
    assert {image.numpy().tobytes() for image in images} <= {image.numpy().tobytes() for image in expected}


class Killed(Exception):
    """What ends a fit in the middle."""


def test_fit_cut_short_goes_on_from_its_state_and_leaves_the_same_bytes(
    student_inputs: dict[str, str], tmp_path: Path
) -> None:
    train = STUDENT.train.model_copy(update={"steps": 6})
    config = STUDENT.model_copy(update={"train": train, "execution": ExecutionConfig(state_every_steps=2)})

    def die_at_step_5(event: str, **fields: Any) -> None:
        if event == "metrics" and fields["step"] == 5:
            raise Killed

    root, told = tmp_path / "root", Told([])
    whole = stages.fit(config, student_inputs, str(tmp_path / "whole"))
    with pytest.raises(Killed):
        stages.fit(config, student_inputs, str(root), die_at_step_5)
    assert sorted(int(path.name.split(".")[0]) for path in root.glob("state/*/*.safetensors")) == [2, 4]
    assert stages.fit(config, student_inputs, str(root), told) == whole
    assert [fields["step"] for event, fields in told.events if event == "metrics"] == [5, 6]
    assert not list(root.glob("state/*"))  # nothing is left once the checkpoint stands


@pytest.mark.parametrize("schedule", ["cosine", "step_exponential", "steps"])
@pytest.mark.parametrize("optimizer", ["rmsprop", "sgd", "adamw"])
def test_resumed_fits_end_the_same_in_memory_and_streamed(
    student_inputs: dict[str, str], root: str, optimizer: str, schedule: str
) -> None:
    settings = {"name": optimizer, "learning_rate": 0.01, "learning_rate_batch": 6}
    train = {"steps": 4, "optimizer": OptimizerConfig.model_validate(settings), "schedule": schedule}
    config = STUDENT.model_copy(update={"train": STUDENT.train.model_copy(update=train)})
    whole = stages.fit(config, student_inputs, f"{root}/whole")

    def die_at_step_3(event: str, **fields: Any) -> None:
        if event == "metrics" and fields["step"] == 3:
            raise Killed

    for mode in ("resident", "streaming"):
        execution = ExecutionConfig(data=mode, num_workers=0, state_every_steps=2)  # pyright: ignore[reportArgumentType]
        cut_short = config.model_copy(update={"execution": execution})
        with pytest.raises(Killed):
            stages.fit(cut_short, student_inputs, f"{root}/{mode}", die_at_step_3)
        assert stages.fit(cut_short, student_inputs, f"{root}/{mode}").content_digest == whole.content_digest, mode


def test_how_a_fit_is_carried_out_is_no_part_of_its_key(student_inputs: dict[str, str], root: str) -> None:
    other = STUDENT.model_copy(update={"execution": ExecutionConfig(state_every_steps=1)})
    told = Told([])
    assert stages.fit(STUDENT, student_inputs, root) == stages.fit(other, student_inputs, root, told)
    assert told.events == []


def test_classes_have_the_names_of_their_source(small: Small, data: dict[str, str], picture: Any) -> None:
    folder = Folder.at(f"{small.root}/photos")
    for number in range(12):
        folder.publish(f"{('ant', 'bee', 'cat')[number % 3]}/{number}.png", picture(number, number % 3))
    photos = small.prepare(folder.url, labelled=True)
    url = small.run("fit", FIT, {"labelled": photos, "validation": data["validation"]})
    assert checkpoints.load(url)[1]["label_names"] == ["ant", "bee", "cat"]
    assert "label_names" not in checkpoints.load(small.teacher(data))[1]
