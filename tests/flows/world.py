"""A folder with everything in it: sources, a root, Prefect, MLflow; how a run is made there, and what it left."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterKey,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterId,
)
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_URL, temporary_settings

from noisystudent_core.config import NoisyStudentConfig, parse_assignments
from noisystudent_core.recipes import EXAMPLES, configure
from noisystudent_core.storage.manifest import Artifact, Manifest
from noisystudent_core.storage.verify import artifact_urls
from tasks.engines import ENGINES, LocalEngine

SIZES = {"labelled": 100, "unlabelled": 400, "validation": 100, "test": 100}  # images of the example that are read
SETTINGS = ("data.images_per_part=100", "teacher.train.warmup_epochs=0", "iterations.*.train.warmup_epochs=0")
SHORT = {"num_iterations": 1, "shrink": 0.04, "threshold": 0.0, "num_images_per_class": 30, "seed": 1}


@dataclass(frozen=True)
class World:
    """A folder with everything in it, and the run made there."""

    folder: Path
    environment: dict[str, str]
    sources: dict[str, str]
    engines: list[Any] = field(default_factory=list)  # one for each time that one was opened in this process

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


def some_digits(folder: Path) -> dict[str, str]:
    """Sources of `SIZES` images of the example, evenly spaced."""
    sources = {split: str(folder / f"{split}.parquet") for split in SIZES}
    for split, size in SIZES.items():
        whole = pq.read_table(EXAMPLES / "digits" / f"{split}.parquet")
        pq.write_table(whole.take(list(range(0, len(whole), len(whole) // size))), sources[split])
    return sources


class KeptEngine(LocalEngine):
    """An engine whose workers outlive the runs that it is opened for: their start takes seconds."""

    def close(self) -> None: ...

    def end(self) -> None:
        super().close()


@contextmanager
def in_this_process(folder: Path, prefect_url: str, engine: KeptEngine) -> Iterator[World]:
    """A world for flows that are called in this process."""
    environment = {"NOISY_STUDENT_HOME": str(folder / "home"), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    world = World(folder, os.environ | environment, some_digits(folder))

    def opened() -> KeptEngine:
        world.engines.append(engine)
        return engine

    with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_API_URL: prefect_url}):
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setitem(ENGINES, "local", opened)
        yield world


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


def flow_runs(name: str = "noisy-student") -> list[FlowRun]:
    """Runs of the flow, the first one first."""
    ours = FlowFilter(name=FlowFilterName(any_=[name]))
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(flow_filter=ours, sort=FlowRunSort.START_TIME_ASC)


def task_runs(run: FlowRun) -> list[TaskRun]:
    """As the server has them once it tells nothing new for a second: it records them some time after they ended."""
    found, known = _task_runs(run), None
    while known != (known := {(each.id, each.name, each.state_name) for each in found}):
        time.sleep(1)
        found = _task_runs(run)
    return found


def _task_runs(run: FlowRun) -> list[TaskRun]:
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


def to_four_places(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as the UI's tables have them."""
    return [{name: round(cell, 4) if isinstance(cell, float) else cell for name, cell in row.items()} for row in rows]


def parent(client: MlflowClient) -> Any:
    (run,) = [run for run in all_runs(client) if "noisy_student.run" in run.data.tags]
    return run


def all_runs(client: MlflowClient) -> list[Any]:
    experiment = client.get_experiment_by_name("noisy-student")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def forget_numbers(world: World, stage: str) -> None:
    """Have MLflow as if the stage's run were going on, and nothing had been sent."""
    (run_id,) = [run.info.run_id for run in all_runs(world.tracking) if run.info.run_name == stage]
    database = world.environment["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")
    with closing(sqlite3.connect(database)) as connection, connection:
        for table in ("metrics", "latest_metrics"):
            assert connection.execute(f"DELETE FROM {table} WHERE run_uuid = ?", [run_id]).rowcount
    world.tracking.update_run(run_id, status="RUNNING")


def artifact(world: World, stage: str, matches: Callable[[Manifest], bool]) -> str:
    """The address of the one artifact of a stage that matches."""
    manifests = {url: Artifact.open(url).manifest for url in artifact_urls(world.root)}
    (found,) = [url for url, manifest in manifests.items() if manifest.stage == stage and matches(manifest)]
    return found


def contents(root: str) -> dict[str, tuple[str, str]]:
    """Stage and content digest of every artifact by its key."""
    manifests = [Artifact.open(url).manifest for url in artifact_urls(root)]
    return {manifest.key: (manifest.stage, manifest.content_digest) for manifest in manifests}
