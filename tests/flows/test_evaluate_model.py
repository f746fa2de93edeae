"""Any model on any benchmark, as users ask for it: our checkpoint, timm's net from a file, folders of classes."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from flows.evaluate_model import evaluate_model
from noisystudent_core.errors import ConfigurationError, LabelError, SourceError
from noisystudent_core.evaluation import corruptions
from noisystudent_core.storage.manifest import Artifact
from tests.flows.world import KeptEngine, World, artifacts, flow_runs, in_this_process, parent, to_four_places
from tests.stages.small import FIT, Small

WORDS = ("nought", "one", "two")
Picture = Callable[..., bytes]
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, prefect_url: str, kept_engine: KeptEngine) -> Iterator[World]:
    with in_this_process(tmp_path_factory.mktemp("evaluation"), prefect_url, kept_engine) as made:
        yield made


@pytest.fixture(scope="module")
def images(world: World, picture: Picture, write_source: Callable[..., str]) -> str:
    labels = [row % 3 for row in range(12)]
    return write_source(
        str(world.folder / "own.parquet"), [picture(n, label) for n, label in enumerate(labels)], labels
    )


@pytest.fixture(scope="module")
def checkpoint(world: World, images: str) -> str:
    """A net of three classes without names, fitted for a moment."""
    small = Small(world.root)
    prepared = small.prepare(images, labelled=True)
    return small.run("fit", FIT, {"labelled": prepared, "validation": prepared})


def write_folders(folder: Path, picture: Picture, names: tuple[str, ...] = ("0", "1", "2")) -> str:
    """A folder for each class with the images of `images` in it."""
    for number in range(12):
        path = folder / names[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number, number % 3))
    return str(folder)


def values(rows: Rows, benchmark: str, suite: str) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in rows if (row["benchmark"], row["suite"]) == (benchmark, suite)}


@pytest.fixture(scope="module")
def rows(world: World, checkpoint: str, images: str, picture: Picture) -> Rows:
    """Our checkpoint on images, made worse and attacked, and on a folder of the same images."""
    return evaluate_model(
        checkpoint,
        images=images,
        folders={"folder": write_folders(world.folder / "numbers", picture)},
        suites=["corruptions", "adversarial"],
        root=world.root,
        overrides={
            "robustness.corruptions.severities": [1, 5],
            "robustness.corruptions.num_images": 6,
            "robustness.adversarial.fgsm_epsilons": [0, 8],
            "robustness.adversarial.pgd_steps": 2,
        },
    )


def test_a_row_for_each_benchmark_and_metric(rows: Rows) -> None:
    accuracy = values(rows, "images", "accuracy")
    assert {"top1", "loss", "macro_f1", "ece"} == accuracy.keys()
    assert values(rows, "folder", "folder") == pytest.approx(accuracy)  # the same images, known by their folders
    worse = values(rows, "images", "corruptions")
    assert {f"corruption_error/{name}/5" for name in corruptions.names(None)} <= worse.keys()
    assert worse["mean_corruption_error"] == pytest.approx(100 - worse["corruption_top1"])
    attacked = values(rows, "images", "adversarial")
    assert attacked.keys() == {"fgsm_0/top1", "fgsm_8/top1", "pgd_16/top1"}
    assert attacked["fgsm_0/top1"] == accuracy["top1"]
    counts = {(row["benchmark"], row["suite"]): row["num_images"] for row in rows}
    assert counts == {
        **{("images", suite): 12 for suite in ("accuracy", "adversarial")},
        ("images", "corruptions"): 6,
        ("folder", "folder"): 12,
    }


def test_prefect_and_mlflow_show_them(world: World, rows: Rows) -> None:
    (table,) = artifacts(flow_runs("evaluate-model")[0], "measurements")
    shown = [{key: row[key] for key in row if key != "report"} for row in rows]
    assert json.loads(table.data) == to_four_places(shown)
    experiment = world.tracking.get_experiment_by_name("noisy-student")
    assert experiment is not None
    runs = world.tracking.search_runs([experiment.experiment_id])
    (whole,) = [run for run in runs if "noisy_student.run" in run.data.tags]
    assert whole.info.status == "FINISHED"
    accuracy = values(rows, "images", "accuracy")
    assert whole.data.metrics["images/top1"] == accuracy["top1"]
    assert whole.data.metrics["folder/top1"] == accuracy["top1"]
    assert "images/corruption_error/frost procedural" in whole.data.metrics
    assert not [key for key in whole.data.metrics if key.count("/") > 2]
    children = {run.info.run_name for run in runs} - {whole.info.run_name}
    assert children == {
        "prepare images",
        "corruptions of images",
        "evaluate model on folder",
        "evaluate model on images",
        "evaluate model on images, corruptions",
        "evaluate model on images, adversarial",
        "report",
    }


def test_a_report_of_the_model_is_left_and_shown(world: World, rows: Rows) -> None:
    (url,) = {row["report"] for row in rows}
    report = Artifact.open(url)
    assert url.startswith(f"{world.root}/reports/")
    drawn = {part.path for part in report.manifest.parts}
    assert {"figures/mistakes.png", "figures/corruptions.png", "figures/classes-folder.png"} <= drawn
    text = report.folder.read("report.md").decode()
    assert f"| {values(rows, 'images', 'accuracy')['top1']:.2f} |" in text
    (shown,) = artifacts(flow_runs("evaluate-model")[0], "report")
    assert shown.data == f"{text}\nWith charts and pictures: `{url}/report.html`\n"
    run = parent(world.tracking)
    assert {"report.md", "report.html"} <= {file.path for file in world.tracking.list_artifacts(run.info.run_id)}


def test_a_net_from_a_file_on_folders_that_are_named(world: World, picture: Picture, tmp_path: Path) -> None:
    torch.manual_seed(1)
    net = timm.create_model("test_resnet", num_classes=3)
    with torch.no_grad():  # a net that calls everything the last class
        net.get_submodule("fc").bias.copy_(torch.tensor([0.0, 0.0, 1e4]))  # type: ignore[union-attr]
    file = str(tmp_path / "net.safetensors")
    save_file(net.state_dict(), file)
    found = evaluate_model(
        file,
        folders={"folder": write_folders(tmp_path / "words", picture, WORDS)},
        model="test_resnet",
        num_classes=3,
        root=world.root,
        overrides={"model.resolution_px": 32, "class_names": ["two", "one", "nought"]},
    )
    assert values(found, "folder", "folder")["top1"] == pytest.approx(100 / 3)
    (evaluation,) = [run for run in flow_runs("evaluate-model") if file in str(run.parameters["checkpoint"])]
    assert evaluation.state_name == "Completed"
    recalls = _recalls(world, found)
    assert recalls == [0, 0, 100]  # the last class is the folder "nought", which comes first of them


def _recalls(world: World, found: Rows) -> list[float]:
    manifests = [
        Artifact.open(str(path.parent)).manifest for path in Path(world.root).rglob("evaluations/*/manifest.json")
    ]
    (mine,) = [m for m in manifests if m.config.get("class_names") == ["two", "one", "nought"]]
    assert mine.facts["num_images"] == found[0]["num_images"]
    return np.round(mine.facts["arrays"]["class_top1"]["values"], 6).tolist()


def without(number: int) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        for file in (folder / str(number)).iterdir():
            file.unlink()

    return remove


def renamed(folder: Path) -> None:
    (folder / "2").rename(folder / "cat")


def added(folder: Path) -> None:
    (folder / "2").rename(folder / "7")


def emptied(folder: Path) -> None:
    for number in range(3):
        without(number)(folder)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (renamed, ConfigurationError, r"3 classes have no names.*\(0, 1, cat\): which is which\? Set class_names"),
        (added, LabelError, r"1 of 3 classes are other ones \(7\); must be the 3 classes 0, 1, 2; give a model of"),
        (without(1), LabelError, r"no image of 1 of 3 classes \(1\); unpack the whole benchmark"),
        (emptied, SourceError, r"no file there; give a folder with images below a folder for each class"),
    ],
)
def test_a_folder_of_other_classes_ends_the_run_before_an_image_is_read(
    world: World,
    checkpoint: str,
    picture: Picture,
    tmp_path: Path,
    change: Callable[[Path], None],
    error: type[Exception],
    message: str,
) -> None:
    folder, root = tmp_path / "folder", tmp_path / "root"
    write_folders(folder, picture)
    change(folder)
    for file in folder.rglob("*.png"):
        file.write_bytes(b"this is read by nobody")
    with pytest.raises(error, match=f"evaluate model on folder: .*{message}"):
        evaluate_model(checkpoint, folders={"folder": str(folder)}, root=str(root))
    assert not list(root.rglob("manifest.json"))


def test_labels_out_of_range_end_the_run(
    world: World, checkpoint: str, picture: Picture, write_source: Callable[..., str], tmp_path: Path
) -> None:
    wrong = write_source(str(tmp_path / "wrong.parquet"), [picture(n) for n in range(4)], [0, 1, 2, 3])
    with pytest.raises(LabelError, match=r"prepare images: .*row 3 has label 3; must be 0 to 2 \(num_classes=3\)"):
        evaluate_model(checkpoint, images=wrong, root=str(tmp_path / "root"))
    assert not list((tmp_path / "root").rglob("manifest.json"))


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({}, ConfigurationError, "images=None: nothing to measure on; give labelled images, or benchmarks' folders"),
        (
            {"images": "nowhere.parquet"},
            SourceError,
            r"nowhere\.parquet: does not exist; give a folder",
        ),
        (
            {"folders": {"folder": "nowhere"}},
            SourceError,
            "folders.folder=.*nowhere: no such folder; give the benchmark",
        ),
        (
            {"folders": {"imagenet_z": "."}},
            ConfigurationError,
            r"folders\.imagenet_z.*Input should be 'folder', 'imagen",
        ),
        ({"suites": ["fog"]}, ConfigurationError, r"suites=\['fog'\]: must be of corruptions, perturbations, advers"),
        ({"checkpoint": "nowhere"}, SourceError, "nowhere: no manifest.json there, so no finished artifact"),
        (
            {"checkpoint": "a.safetensors"},
            ConfigurationError,
            "without the net that they are of; give model and num_cl",
        ),
        (
            {"checkpoint": "a.safetensors", "model": "test_resnet", "num_classes": 3},
            SourceError,
            r"a\.safetensors: no such file",
        ),
        (
            {"model": "resnet50"},
            ConfigurationError,
            "model='resnet50' beside .*leave model out, or give a .safetensors",
        ),
        ({"num_classes": 10}, ConfigurationError, "num_classes=10: .* has 3 classes; leave num_classes out"),
        (
            {"suites": ["adversarial"], "overrides": {"robustness.adversarial.fgsm_epsilons": [0, -1]}},
            ConfigurationError,
            r"fgsm_epsilons\.1=-1: Input should be greater than or equal to 0",
        ),
        (
            {"suites": ["adversarial"], "overrides": {"robustness.adversarial.pgd_epsilon": 256}},
            ConfigurationError,
            r"pgd_epsilon=256: Input should be less than or equal to 255",
        ),
        (
            {"suites": ["corruptions"], "overrides": {"robustness.corruptions.severities": [6]}},
            ConfigurationError,
            r"severities\.0=6: Input should be less than or equal to 5",
        ),
    ],
)
def test_wrong_parameters_end_before_anything_starts(
    checkpoint: str, images: str, tmp_path: Path, parameters: dict[str, Any], error: type[Exception], message: str
) -> None:
    measured = {} if not parameters or "folders" in parameters else {"images": images}
    with pytest.raises(error, match=message):
        evaluate_model.fn(**{"checkpoint": checkpoint, **measured, "root": str(tmp_path / "root"), **parameters})
    assert not (tmp_path / "root").exists()
