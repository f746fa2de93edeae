"""The one way a stage is run: found finished, or run on an engine slot, followed in Prefect and tracked in MLflow."""

from base64 import b64decode
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import PurePosixPath
from typing import Any

from prefect import get_run_logger
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Completed
from prefect.tasks import Task, exponential_backoff
from pydantic import BaseModel, ConfigDict

from noisystudent_core.config import StageSettings
from noisystudent_core.errors import NoisyStudentError, by_name
from noisystudent_core.storage.manifest import Artifact, Inputs, Manifest, artifact_url, finished, input_digests
from noisystudent_core.storage.run_records import RunNotes
from tasks.engines import Engine, engine_of
from tasks.left_open import left_open
from tasks.lost_runs import is_stage, note_stage
from tasks.progress import Progress, show_image
from tasks.system_metrics import PREFIX, SystemMetrics
from tasks.tracking import StageRun, Tracker

Ref = Any  # URL of an artifact; where a task is submitted, the future of one
Metrics = Callable[[Manifest], dict[str, float]]


class Run(BaseModel):
    """What every task of a run is told: where artifacts go, where stages run, where numbers go."""

    model_config = ConfigDict(frozen=True)

    id: str  # of the flow run; the engine is known by it
    root: str
    tracker: Tracker
    mlflow_run_id: str | None  # None: MLflow did not answer, the run is not tracked
    digest: str  # of configuration, sources and root: an equal run is the same one again

    @property
    def engine(self) -> Engine[Any]:
        """Where this run's stages run."""
        return engine_of(self.id)

    def use(self, url: str) -> None:
        """Note that this run refers to an artifact, before it looks for it; wait while artifacts are removed."""
        RunNotes(self.root, self.digest).use(url, get_run_logger().info)


def worth_retrying(task: Task[Any, Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Whether trying again can help: not for wrong settings or data."""
    error = state.data
    return not isinstance(error, NoisyStudentError) or error.retryable


def remember_failure(task: Task[Any, Any], task_run: TaskRun, state: State[Any]) -> None:
    """Keep a task's error for the end of its run: what waits for the task only learns that it is not ready."""
    error = getattr(state.data, "result", state.data)  # Prefect may have wrapped it in a record
    _failures.setdefault(str(task_run.flow_run_id), []).append((task_run.name, error))


def remember_success(task: Task[Any, Any], task_run: TaskRun, state: State[Any]) -> None:
    """Note the stage that was finished last; plans and groups are pieces of one."""
    if is_stage(task_run.name):
        note_stage(str(task_run.flow_run_id), task_run.name)


def first_failure(run_id: str, otherwise: Exception) -> Exception:
    """The first error of a run's tasks, its stage named; `otherwise` where none failed."""
    for name, error in _failures.pop(run_id, []):
        if isinstance(error, NoisyStudentError):
            return by_name(type(error).__name__, f"{name}: {error}")
        if isinstance(error, Exception):
            return error
    return otherwise


_failures: dict[str, list[tuple[str, Any]]] = {}  # by flow run

RETRIES: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": worth_retrying,
    "on_completion": [remember_success],
    "on_failure": [remember_failure],
    "cache_policy": NO_CACHE,  # manifests are the truth
}


def run_stage(
    call: str,
    config: StageSettings,
    inputs: Inputs,
    run: Run,
    name: str,
    iteration: int | None = None,
    metrics: Metrics | None = None,
) -> State[str]:
    """Run a stage unless its artifact is finished; the state's result is the artifact's URL.

    `metrics` picks the numbers of the finished manifest that the stage's MLflow run shows, at step `iteration`.
    """
    digests = input_digests(inputs)
    url = artifact_url(config, digests, run.root)
    run.use(url)
    if finished(url) is not None:
        get_run_logger().info("%s: reused %s", name, url)
        if PurePosixPath(url).name in left_open(run.tracker, run.mlflow_run_id):
            with _stage_run(run, url, name, iteration, config) as stage_run:
                _log(stage_run, url, metrics, iteration)
        return Completed(name="Reused", message=f"{url} was finished before", data=url)
    with _stage_run(run, url, name, iteration, config) as stage_run, Progress(name) as progress:
        with _measured(config, run, stage_run):
            run.engine.run(call, config, inputs, run.root, _listener(name, progress, stage_run))
        _log(stage_run, url, metrics, iteration)
    get_run_logger().info("%s: finished %s", name, url)
    return Completed(data=url)


def _stage_run(run: Run, url: str, name: str, iteration: int | None, config: StageSettings) -> StageRun:
    """The stage's own MLflow run, a child of the run's, known by the stage's key."""
    return run.tracker.stage_run(
        run.mlflow_run_id,
        key=PurePosixPath(url).name,
        name=name,
        iteration=iteration,
        params=config.model_dump(mode="json"),
        flow_run_id=run.id,
    )


def _log(stage_run: StageRun, url: str, metrics: Metrics | None, iteration: int | None) -> None:
    """The numbers of a finished manifest."""
    if metrics is not None:
        stage_run.log(metrics(Artifact.open(url).manifest), iteration or 0)


def _measured(config: StageSettings, run: Run, stage_run: StageRun) -> AbstractContextManager[object]:
    """Have the machine's use measured during a fit, where this process is on the fit's own machine."""
    if stage_run.run_id is None or not config.resumes or not run.engine.is_here:
        return nullcontext()
    return SystemMetrics(stage_run.log, stage_run.next_step(PREFIX))


def _listener(name: str, progress: Progress, stage_run: StageRun) -> Any:
    """Sort a stage's events: metrics and figures go to MLflow, the rest and the figures' addresses to Prefect."""

    def listen(event: str, **fields: Any) -> None:
        if event == "metrics":
            stage_run.log(fields["values"], fields["step"])
        elif event == "figure":
            url = stage_run.log_image(fields["name"], b64decode(fields["png"]))
            show_image(f"{fields['name']} {name}", url, f"{fields['name']} of {name}")
        else:
            progress.listen(event, **fields)

    return listen
