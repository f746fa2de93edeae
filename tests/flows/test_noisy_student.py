"""The whole flow, as users run it: on a real Prefect server, with a real MLflow, asked through their clients.

One small run of the digits and one repetition of it, each a `noisy-student run` in a process of its own; every test
asks what they left.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pyarrow.parquet as pq
import pytest
import torch
from mlflow import MlflowClient
from mlflow.pytorch import load_model
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterId,
)
from prefect.client.schemas.objects import FlowRun, TaskRun, TaskRunResult
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.noisy_student import noisy_student
from noisystudent_core import stages
from noisystudent_core.config import NoisyStudentConfig, StageSettings, parse_assignments
from noisystudent_core.errors import ConfigurationError, RootError, SourceError
from noisystudent_core.models import checkpoints
from noisystudent_core.recipes import EXAMPLES, configure
from noisystudent_core.storage.manifest import Artifact, Manifest, artifact_url, input_digests
from noisystudent_core.storage.verify import artifact_urls
from tasks import progress, servers

SIZES = {"labelled": 100, "unlabelled": 400, "validation": 100, "test": 100}  # images of the example that are read
SETTINGS = ("data.images_per_part=100", "teacher.train.warmup_epochs=0", "iterations.*.train.warmup_epochs=0")
SHORT = {"num_iterations": 1, "shrink": 0.04, "threshold": 0.0, "num_images_per_class": 30, "seed": 1}
PLANS = {f"plan labelling by {role}" for role in ("selector", "selector, validation", "teacher 1")}
MODEL = "noisy-student-digits"
STAGES = {
    *("prepare labelled", "prepare unlabelled", "prepare validation", "prepare test", "exclusions"),
    *("fit teacher", "fit baseline 1", "fit student 1", "select"),
    *("label by selector", "label by selector, validation", "label by teacher 1"),
    *("evaluate teacher on validation", "evaluate teacher on test", "evaluate baseline 1 on test"),
    *("evaluate student 1 on validation", "evaluate student 1 on test"),
}


@dataclass(frozen=True)
class World:
    """A folder with everything in it, and the run made there."""

    folder: Path
    environment: dict[str, str]
    sources: dict[str, str]

    @property
    def root(self) -> str:
        return str(self.folder / "root")

    @property
    def tracking(self) -> MlflowClient:
        return MlflowClient(self.environment["MLFLOW_TRACKING_URI"])

    def command(self, *arguments: str, **options: str) -> subprocess.CompletedProcess[str]:
        words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
        command = [sys.executable, "-m", "flows", *arguments, *words]
        return subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=300, check=False
        )

    def run(self, name: str) -> list[dict[str, Any]]:
        """Run the flow, and return its table."""
        file = self.folder / f"{name}.json"
        settings = [word for setting in SETTINGS for word in ("--set", setting)]
        options = {**self.sources, **{key: str(value) for key, value in SHORT.items()}}
        done = self.command("run", *settings, root=self.root, json=str(file), **options)
        assert done.returncode == 0, done.stderr
        return json.loads(file.read_text())

    def config(self) -> NoisyStudentConfig:
        overrides = parse_assignments(list(SETTINGS))
        return configure("digits", sources=self.sources, overrides=overrides, **SHORT)


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
    """The table of the same command again."""
    return world.run("second")


def snapshot(client: MlflowClient) -> dict[str, Any]:
    """Every metric value, parameter and data set of every run, and every model version."""
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    return {
        "metrics": {
            (run.info.run_id, key): [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, key)]
            for run in runs
            for key in run.data.metrics
        },
        "params": {run.info.run_id: run.data.params for run in runs},
        "inputs": {run.info.run_id: sorted(data.digest for data in data_sets(run)) for run in runs},
        "versions": sorted(version.version for version in client.search_model_versions()),
    }


def data_sets(run: Any) -> list[Any]:
    return [item.dataset for item in run.inputs.dataset_inputs]


def flow_runs() -> list[FlowRun]:
    with get_client(sync_client=True) as client:
        return sorted(client.read_flow_runs(), key=lambda run: run.expected_start_time or run.created)  # type: ignore


def task_runs(run: FlowRun) -> list[TaskRun]:
    with get_client(sync_client=True) as client:
        found: list[TaskRun] = []
        only = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
        while len(page := client.read_task_runs(flow_run_filter=only, limit=200, offset=len(found))):
            found += page
        return found


def artifacts(run: FlowRun, key: str) -> list[Any]:
    with get_client(sync_client=True) as client:
        return client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])),
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])),
        )


def parent(client: MlflowClient) -> Any:
    (run,) = [run for run in all_runs(client) if "noisy_student.run" in run.data.tags]
    return run


def all_runs(client: MlflowClient) -> list[Any]:
    experiment = client.get_experiment_by_name("noisy-student")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


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
    assert (run.name, run.state_name) == ("digits seed 1", "Completed")


def test_every_stage_is_a_task_that_can_be_retried(rows: list[dict[str, Any]]) -> None:
    runs = task_runs(flow_runs()[0])
    names = Counter(run.name for run in runs)
    groups = {name for name in names if name.endswith(": a group")}
    assert set(names) == STAGES | PLANS | groups | {"report", "publish"}
    assert names["label by selector: a group"] == 4
    assert {run.state_name for run in runs} == {"Completed"}
    assert {run.empirical_policy.retries for run in runs} == {3}


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
    assert json.loads(iterations.data) == rows
    (thresholds,) = artifacts(run, "thresholds")
    table = json.loads(thresholds.data)
    assert {0.0, 0.3, 0.6, 0.99} <= {row["threshold"] for row in table}
    assert table[0]["validation_precision"] is not None
    (classes,) = artifacts(run, "classes")
    assert sum(row["copies"] for row in json.loads(classes.data)) <= 10 * 30
    (report,) = artifacts(run, "report")
    assert report.data.startswith("# digits, seed 1")


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

    def percent() -> float:
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
    assert {run.info.run_name for run in children} == STAGES | {"publish"}
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


def artifact(world: World, stage: str, matches: Callable[[Manifest], bool]) -> str:
    """The address of the one artifact of a stage that matches."""
    manifests = {url: Artifact.open(url).manifest for url in artifact_urls(world.root)}
    (found,) = [url for url, manifest in manifests.items() if manifest.stage == stage and matches(manifest)]
    return found


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


def test_second_run_logs_nothing_twice(world: World, tracked: dict[str, Any], repeated: list[dict[str, Any]]) -> None:
    assert snapshot(world.tracking) == tracked
    ids = parent(world.tracking).data.tags["prefect.flow_run_ids"].split(",")
    assert ids == [str(run.id) for run in flow_runs()[:2]]


# the same, without an orchestrator, and on S3


def test_stages_in_the_flow_s_order_give_the_flow_s_artifacts(
    world: World, rows: list[dict[str, Any]], s3_root: str
) -> None:
    algorithm_1(world.config(), s3_root)
    assert contents(s3_root) == contents(world.root)


def contents(root: str) -> dict[str, tuple[str, str]]:
    """Stage and content digest of every artifact by its key."""
    manifests = [Artifact.open(url).manifest for url in artifact_urls(root)]
    return {manifest.key: (manifest.stage, manifest.content_digest) for manifest in manifests}


def algorithm_1(config: NoisyStudentConfig, root: str) -> None:
    """The flow's stages in the flow's order, called one after another."""

    def run(call: str, settings: StageSettings, **inputs: str) -> str:
        stage: Any = getattr(stages, call)
        stage(settings, inputs, root)
        return artifact_url(settings, input_digests(inputs), root)

    data = {split: run("prepare", config.prepare(split), source=str(config.source(split))) for split in SIZES}
    labelled = {"labelled": data["labelled"], "validation": data["validation"]}
    evaluation = {"validation": data["validation"], "test": data["test"]}
    exclusions = run("exclusions", config.exclusions(), unlabelled=data["unlabelled"], **evaluation)
    teacher = run("fit", config.fit_teacher(), **labelled)
    for benchmark, images in evaluation.items():
        run("evaluate", config.evaluate(benchmark), checkpoint=teacher, images=images)
    selection = run(
        "select",
        config.select(),
        predictions=run("predict", config.predict("label"), checkpoint=teacher, images=data["unlabelled"]),
        images=data["unlabelled"],
        exclusions=exclusions,
        labelled=data["labelled"],
        validation_predictions=run("predict", config.predict("label"), checkpoint=teacher, images=data["validation"]),
        validation_images=data["validation"],
    )
    for i in config.student_iterations:
        baseline = run("fit", config.fit_baseline(i), **labelled)
        run("evaluate", config.evaluate("test"), checkpoint=baseline, images=data["test"])
        selected = {"images": data["unlabelled"], "selection": selection}
        pseudo = run("predict", config.predict("distribution"), checkpoint=teacher, **selected)
        teacher = run("fit", config.fit_student(i), **labelled, **selected, predictions=pseudo)
        for benchmark, images in evaluation.items():
            run("evaluate", config.evaluate(benchmark), checkpoint=teacher, images=images)


# wrong parameters


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"recipe": "imagenet"}, ConfigurationError, "recipe 'imagenet': must be one of digits, finetune"),
        ({"threshold": 1.0}, ConfigurationError, r"selection\.threshold=1\.0: Input should be less than 1"),
        (
            {"unlabelled_ratio": 0.5},
            ConfigurationError,
            r"unlabelled_ratio=0\.5: Input should be greater",
        ),
        ({"num_iterations": 0}, ConfigurationError, "num_iterations=0: must be >= 1"),
        ({"overrides": {"selection.treshold": 0.1}}, ConfigurationError, "no setting named 'treshold' there; there is"),
        ({"engine": "slurm"}, ConfigurationError, "engine 'slurm': must be one of local"),
        ({"test": "nowhere.parquet"}, SourceError, r"nowhere\.parquet: does not exist"),
        ({"root": "/proc/root"}, RootError, "/proc/root.*cannot be written"),
        ({"root": "ftpp://host/root"}, ConfigurationError, "ftpp://host/root: Protocol not known: ftpp"),
    ],
)
def test_wrong_parameters_are_refused_before_any_stage(
    root: str, sources: dict[str, str], parameters: dict[str, Any], error: type[Exception], message: str
) -> None:
    given: Any = {**sources, "root": root, **parameters}
    with pytest.raises(error, match=message):
        noisy_student.fn(**given)
    assert not list(Path(root).rglob("manifest.json"))


def test_a_failing_run_says_so_in_one_paragraph(world: World, rows: list[dict[str, Any]]) -> None:
    before = contents(world.root)
    done = world.command("run", "--set", "iterations.0.model.name=test_efficientnet", root=world.root, **world.sources)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("noisy-student: student 1 (test_efficientnet) has 101,766 parameters, its teacher 373,658:")
    assert flow_runs()[-1].state_name == "Failed"
    assert contents(world.root) == before
