"""The whole flow, as users run it: on a real Prefect server, with a real MLflow, asked through their clients.

One small run of the digits and one repetition of it, each a `noisy-student run` in a process of its own; every test
asks what they left.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pyarrow.parquet as pq
import pytest
import torch
from mlflow.pytorch import load_model
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterKey,
)
from prefect.client.schemas.objects import TaskRunResult
from prefect.settings import PREFECT_API_URL, temporary_settings

from benchmarks.in_order import InOrder
from noisystudent_core import stages
from noisystudent_core.config.evaluation import ReportConfig
from noisystudent_core.evaluation import report
from noisystudent_core.models import checkpoints
from noisystudent_core.recipes import EXAMPLES
from noisystudent_core.storage import cleaning
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import Artifact
from noisystudent_core.storage.run_records import records
from noisystudent_core.storage.verify import artifact_urls
from tasks import progress, servers
from tests.flows.world import (
    SIZES,
    World,
    all_runs,
    artifact,
    artifacts,
    contents,
    data_sets,
    flow_runs,
    forget_numbers,
    parent,
    snapshot,
    task_runs,
    to_four_places,
)

MODEL = "noisy-student-digits"
STAGES = {
    *("prepare labelled", "prepare unlabelled", "prepare validation", "prepare test"),
    *("fingerprint unlabelled", "exclusions"),
    *("fit teacher", "fit baseline 1", "fit student 1", "select"),
    *("label by selector", "label by selector, validation", "label by teacher 1"),
    *("evaluate teacher on validation", "evaluate teacher on test", "evaluate baseline 1 on test"),
    *("evaluate student 1 on validation", "evaluate student 1 on test"),
    *("corruptions of test", "perturbations of test"),
    *(
        f"evaluate {role} on test, {suite}"
        for role in ("teacher", "student 1", "baseline 1")
        for suite in ("corruptions", "perturbations", "adversarial")
    ),
}
LABELLINGS = {f"label by {role}" for role in ("selector", "selector, validation", "teacher 1")}
PLANS = {f"plan: {name}" for name in {"fingerprint unlabelled", *LABELLINGS}}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("flow")
    sources = {split: str(folder / f"{split}.parquet") for split in SIZES}
    for split, size in SIZES.items():
        whole = pq.read_table(EXAMPLES / "digits" / f"{split}.parquet")
        pq.write_table(whole.take(list(range(0, len(whole), len(whole) // size))), sources[split])
    with servers.temporary_prefect_server(folder / "home") as url:
        environment = os.environ | {
            "NOISY_STUDENT_HOME": str(folder / "home"),
            "PREFECT_API_URL": url,
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
            "OMP_NUM_THREADS": "1",  # as in the process of the tests: sums in the same order
            "PYTHONPATH": str(EXAMPLES.parent),
        }
        with temporary_settings({PREFECT_API_URL: url}):
            yield World(folder, environment, sources)


@pytest.fixture(scope="module")
def rows(world: World) -> list[dict[str, Any]]:
    """The table of the first run."""
    return world.run("first")


@pytest.fixture(scope="module")
def tracked(world: World, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What MLflow had after the first run."""
    return snapshot(world.tracking)


@pytest.fixture(scope="module")
def repeated(world: World, tracked: dict[str, Any]) -> list[dict[str, Any]]:
    """The table of the same command again, the numbers of one stage not in MLflow, as its process had been killed."""
    forget_numbers(world, "evaluate teacher on test")
    return world.run("second")


# the table


def test_the_table_has_a_row_per_iteration(rows: list[dict[str, Any]]) -> None:
    assert [(row["iteration"], row["model"], row["unlabelled_ratio"]) for row in rows] == [
        (0, "test_resnet", None),
        (1, "test_resnet", 3.0),
    ]
    assert rows[1]["change_teacher"] == pytest.approx(rows[1]["top1"] - rows[0]["top1"])
    assert rows[1]["change_supervised"] == pytest.approx(rows[1]["top1"] - rows[1]["supervised_top1"])
    assert all(0 < row[metric] <= 100 for row in rows for metric in ("top1", "top5", "validation_top1"))


# Prefect


def test_run_is_completed_and_named(world: World, rows: list[dict[str, Any]]) -> None:
    run = flow_runs()[0]
    assert (run.name, run.state_name) == ("noisy-student digits seed 1 #1", "Completed")


def test_every_stage_is_a_task_that_can_be_retried(rows: list[dict[str, Any]]) -> None:
    runs = task_runs(flow_runs()[0])
    names = Counter(run.name for run in runs)
    groups = {name for name in names if name.endswith(": a group")}
    assert set(names) == STAGES | PLANS | groups | {"report", "publish"}
    assert names["label by selector: a group"] == 4
    assert {run.state_name for run in runs} == {"Completed"}
    assert {run.empirical_policy.retries for run in runs} == {3, 8}  # of groups more, see tasks.by_part


def test_tasks_wait_for_what_they_read(rows: list[dict[str, Any]]) -> None:
    runs = task_runs(flow_runs()[0])
    names = {run.id: run.name for run in runs}
    (student,) = [run for run in runs if run.name == "fit student 1"]
    sources = [source for found in student.task_inputs.values() for source in found]
    read = {names[source.id] for source in sources if isinstance(source, TaskRunResult)}
    assert read == {"prepare labelled", "prepare validation", "prepare unlabelled", "select", "label by teacher 1"}


def test_tables_are_in_the_ui(rows: list[dict[str, Any]]) -> None:
    run = flow_runs()[0]
    (iterations,) = artifacts(run, "iterations")
    shown = (*report.columns(rows), "checkpoint")
    assert json.loads(iterations.data) == to_four_places([{name: row[name] for name in shown} for row in rows])
    (thresholds,) = artifacts(run, "thresholds")
    table = json.loads(thresholds.data)
    assert {0.0, 0.3, 0.6, 0.99} <= {row["threshold"] for row in table}
    assert table[0]["validation_precision"] is not None
    (classes,) = artifacts(run, "classes")
    assert sum(row["copies"] for row in json.loads(classes.data)) <= 10 * 30
    (page,) = artifacts(run, "report")
    assert page.data.startswith("# digits, seed 1")


def test_a_long_stage_shows_how_far_it_is(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FIRST_AFTER_S", 0.0)
    monkeypatch.setattr(progress, "EVERY_S", 0.0)

    @flow
    def work() -> list[float]:
        shown = []
        with progress.Progress("label by teacher 1") as bar:
            for done in (1, 3):
                bar.listen("progress", done=done, total=4, unit="images")
                shown.append(percent())
        return [*shown, percent()]

    def percent() -> Any:
        with get_client(sync_client=True) as client:
            (bar,) = client.read_artifacts(
                artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["progress-label-by-teacher-1"]))
            )
        return bar.data

    assert work() == [25.0, 75.0, 100.0]


# MLflow


def test_a_parent_run_and_a_child_for_each_stage(world: World, rows: list[dict[str, Any]]) -> None:
    top, runs = parent(world.tracking), all_runs(world.tracking)
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == top.info.run_id]
    assert len(children) == len(runs) - 1
    assert {run.info.run_name for run in children} == STAGES | {"report", "publish"}
    keys = [run.data.tags["noisy_student.stage"] for run in children]
    assert len(set(keys)) == len(keys)
    assert {url.rpartition("/")[2] for url in artifact_urls(world.root)} >= {key for key in keys if " " not in key}
    assert {run.info.status for run in runs} == {"FINISHED"}
    (student,) = [run for run in children if run.info.run_name == "fit student 1"]
    assert student.data.tags["noisy_student.iteration"] == student.data.params["iteration"] == "1"
    assert "train/loss_unlabelled" in student.data.metrics


def test_the_parent_shows_the_climb(world: World, rows: list[dict[str, Any]]) -> None:
    client = world.tracking
    history = client.get_metric_history(parent(client).info.run_id, "eval/top1")
    assert [(metric.step, metric.value) for metric in history] == [(row["iteration"], row["top1"]) for row in rows]
    assert parent(client).data.params["selection.threshold"] == "0.0"


def test_data_sets_are_logged_by_digest(world: World, rows: list[dict[str, Any]]) -> None:
    read = data_sets(parent(world.tracking))
    assert {data.name for data in read} == set(SIZES)
    digests = {Artifact.open(url).manifest.content_digest for url in artifact_urls(world.root)}
    assert {data.digest for data in read} <= digests


def test_the_student_has_a_model_card_and_fits_have_system_metrics(world: World, rows: list[dict[str, Any]]) -> None:
    card = str(world.tracking.get_model_version(MODEL, "1").description)
    for data in data_sets(parent(world.tracking)):
        num_rows = json.loads(data.profile)["num_rows"]
        assert f"| {data.name} | {num_rows} | `{data.digest}" in card
    assert "Licence: not stated" in card
    (student,) = [run for run in all_runs(world.tracking) if run.info.run_name == "fit student 1"]
    assert "system/cpu_utilization_percentage" in student.data.metrics


def test_the_run_notes_what_it_uses(world: World, rows: list[dict[str, Any]]) -> None:
    (record,) = records(Folder.at(world.root))
    assert record.active_since is None
    in_stages = {url for url in artifact_urls(world.root) if Artifact.open(url).manifest.stage != "ingest"}
    assert {f"{world.root}/{path}" for path in record.artifacts} == in_stages
    assert cleaning.plan(world.root, 1).files == ()


def test_registered_student_loads_and_gives_the_checkpoint_s_logits(
    world: World, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    assert world.tracking.get_registered_model(MODEL).aliases == {"champion": 1, "teacher": 1}
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(world.environment["MLFLOW_TRACKING_URI"])
    try:
        loaded = load_model(f"models:/{MODEL}@champion")
    finally:
        mlflow.set_tracking_uri(before)
    student = artifact(world, "fit", lambda manifest: manifest.config["pseudo_labels"] is not None)
    net, _ = checkpoints.load(student)
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(loaded(images), net(images), rtol=1e-5, atol=1e-6)


# again


def test_second_run_reuses_every_stage(
    world: World, rows: list[dict[str, Any]], repeated: list[dict[str, Any]]
) -> None:
    assert repeated == rows
    run = flow_runs()[1]
    runs = task_runs(run)
    assert {run.name for run in runs if run.state_name == "Reused"} == STAGES
    assert {run.name for run in runs if run.state_name != "Reused"} == PLANS | {"report", "publish"}
    assert run.state_name == "Completed"


def test_second_run_logs_what_is_lacking(world: World, tracked: dict[str, Any], repeated: list[dict[str, Any]]) -> None:
    assert snapshot(world.tracking) == tracked
    assert {run.info.status for run in all_runs(world.tracking)} == {"FINISHED"}
    ids = parent(world.tracking).data.tags["prefect.flow_run_ids"].split(",")
    assert ids == [str(run.id) for run in flow_runs()[:2]]


# the same, without an orchestrator, and on S3


def test_stages_in_the_flow_s_order_give_the_flow_s_artifacts(
    world: World, rows: list[dict[str, Any]], s3_root: str
) -> None:
    config = world.config()
    in_order = InOrder(config, s3_root, say=lambda text: None)
    models, pictured = in_order.algorithm_1()
    stages.report(ReportConfig.of(config), report.inputs(models) | pictured, s3_root)
    assert contents(s3_root) == contents(world.root)


# wrong settings


def test_a_failing_run_says_so_in_one_paragraph(world: World, rows: list[dict[str, Any]]) -> None:
    before = contents(world.root)
    done = world.command("run", "--set", "iterations.0.model.name=test_efficientnet", root=world.root, **world.sources)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("noisy-student: student 1 (test_efficientnet) has 101,766 parameters, its teacher 373,658:")
    assert flow_runs()[-1].state_name == "Failed"
    assert contents(world.root) == before


def test_test_images_of_other_classes_end_a_run_before_anything_is_fitted(
    world: World, rows: list[dict[str, Any]], picture: Any, tmp_path: Path
) -> None:
    sources = {"unlabelled": world.sources["unlabelled"], "root": str(tmp_path / "root")}
    for split, second in (("labelled", "bee"), ("validation", "bee"), ("test", "cow")):
        sources[split] = str(tmp_path / split)
        for number, name in enumerate(("ant", second)):
            file = tmp_path / split / name / "one.png"
            file.parent.mkdir(parents=True)
            file.write_bytes(picture(2 * len(sources) + number))
    done = world.command("run", "--set", "data.num_classes=2", **sources)
    assert done.returncode == 1
    assert "test: class 1 is 'cow', of labelled 'bee': must be the same in the same order" in done.stderr
    assert not list(tmp_path.glob("root/checkpoints/*"))
