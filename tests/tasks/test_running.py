"""How tasks are run: what is worth a retry, and that every task has them. Reuse, tracking: flows/test_noisy_student."""

import base64
import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient
from prefect.cache_policies import NO_CACHE
from prefect.states import Failed
from prefect.tasks import Task

import tasks
from noisystudent_core import errors
from tasks.progress import Progress
from tasks.running import _listener, first_failure, remember_failure, remember_success, worth_retrying
from tasks.tracking import Tracker

NOBODY: Any = None
MODULES = [file.stem for file in Path(tasks.__path__[0]).glob("[a-z]*.py")]
ALL_TASKS = {
    f"{module}.{name}": value
    for module in MODULES
    for name, value in vars(importlib.import_module(f"tasks.{module}")).items()
    if isinstance(value, Task) and value.fn.__module__ == f"tasks.{module}"
}


def test_all_tasks_are_found() -> None:
    assert {"prepare.prepare", "fit.fit", "by_part.group", "select.select", "publish.publish"} <= set(ALL_TASKS)
    assert len(ALL_TASKS) >= 10


@pytest.mark.parametrize("name", ALL_TASKS)
def test_every_task_is_retried_with_growing_pauses(name: str) -> None:
    task = ALL_TASKS[name]
    assert task.retries == (8 if name == "by_part.group" else 3)
    assert task.retry_delay_seconds == [2, 4, 8, 16, 16, 16, 16, 16][: task.retries]
    assert task.retry_jitter_factor == 0.5
    assert task.retry_condition_fn is worth_retrying
    assert task.on_failure_hooks == [remember_failure]
    assert task.on_completion_hooks == [remember_success]
    assert not task.tags  # tag limits crawl
    assert task.cache_policy is NO_CACHE  # manifests are the truth


@pytest.mark.parametrize(
    ("error", "worth"),
    [
        (errors.WorkerDiedError("worker was ended by SIGKILL"), True),
        (ConnectionResetError("the object store hung up"), True),
        (RuntimeError("CUDA error"), True),
        (errors.ConfigurationError("threshold=1.5"), False),
        (errors.LabelError("label 11"), False),
        (errors.CorruptArtifactError("part changed"), False),
        (errors.NonFiniteLossError("loss is nan at step 3"), False),
        (errors.NoisyStudentError("not started, the run is over"), False),
    ],
)
def test_wrong_settings_and_data_are_not_tried_again(error: Exception, worth: bool) -> None:
    assert worth_retrying(NOBODY, NOBODY, Failed(data=error)) is worth


def failed(run_id: str, name: str, error: Exception) -> None:
    task_run: Any = SimpleNamespace(flow_run_id=run_id, name=name)
    remember_failure(NOBODY, task_run, Failed(data=error))


def test_a_run_ends_with_its_first_failure_and_the_stage_s_name() -> None:
    failed("1", "fit teacher", errors.NonFiniteLossError("loss is nan at step 3"))
    failed("1", "fit student 1", errors.LabelError("label 11"))
    failed("2", "select", errors.DataError("nothing is selected"))
    found = first_failure("1", Exception("not ready"))
    assert type(found) is errors.NonFiniteLossError
    assert str(found) == "fit teacher: loss is nan at step 3"
    assert str(first_failure("2", Exception("not ready"))) == "select: nothing is selected"
    otherwise = Exception("not ready")
    assert first_failure("1", otherwise) is otherwise  # told once


def test_an_error_of_others_is_passed_on_as_it_is() -> None:
    error = ZeroDivisionError("division by zero")
    failed("3", "publish", error)
    assert first_failure("3", Exception("not ready")) is error


def test_a_figure_goes_to_the_stage_s_mlflow_run(tmp_path: Path) -> None:
    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db")
    parent = tracker.open_run("abc", name="digits", params={})
    with tracker.stage_run(parent, key="fit-0", name="fit teacher") as stage, Progress("fit teacher") as progress:
        listen = _listener("fit teacher", progress, stage)
        listen("figure", name="noise-grid", png=base64.b64encode(b"png").decode())
        listen("progress", done=1, total=3, unit="steps")
    client = MlflowClient(tracker.tracking_uri)
    assert stage.run_id is not None
    assert Path(client.download_artifacts(stage.run_id, "figures/noise-grid.png")).read_bytes() == b"png"


def test_a_figure_is_shown_by_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    created: list[tuple[str, dict[str, str]]] = []
    monkeypatch.setattr("tasks.progress.create_image_artifact", lambda url, **fields: created.append((url, fields)))
    for url in (None, "http://mlflow/get-artifact?path=figures/noise-grid.png&run_uuid=1"):
        stage: Any = SimpleNamespace(log_image=lambda name, png, url=url: url)
        listen = _listener("fit student 1", Progress("fit student 1"), stage)
        listen("figure", name="noise-grid", png="")
    assert created == [(url, {"key": "noise-grid-fit-student-1", "description": "noise-grid of fit student 1"})]
