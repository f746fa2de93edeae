"""MLflow: a run per noisy-student run, a child run per stage, and metrics that never hold up a fit.

Every call names its run (MLflow's active run is per thread). A failing call is a warning, never an exception; a run id
of None means "not tracked", and every method takes it. MLflow needs 3 s to import, so it is imported at the first call.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tasks.mlflow_connection import (
    EXPERIMENT,
    TRAINING,
    Guard,
    MetricSender,
    Status,
    attempts,
    await_senders,
    connect,
    sqlite_folder,
    ui_address,
)
from tasks.mlflow_entities import TrackedData, leaves, shortened, to_dataset_input, to_metrics, valid_key

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

LOG = logging.getLogger(__name__)

RUN_TAG = "noisy_student.run"
STAGE_TAG = "noisy_student.stage"
ITERATION_TAG = "noisy_student.iteration"
FLOW_RUNS_TAG = "prefect.flow_run_ids"
FLOW_RUN_URL_TAG = "prefect.flow_run_url"
PARENT_TAG = "mlflow.parentRunId"
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # else MLflow's UI opens its GenAI pages
TABLES_TAG = "mlflow.loggedArtifacts"  # MLflow's own list of a run's tables

MAX_FLOW_RUN_IDS = 200  # of 37 characters each; a tag holds 8,000


def default_tracking_uri(home: Path) -> str:
    """`MLFLOW_TRACKING_URI`, else a SQLite file in `home`, with the artifacts in a folder beside it."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home.resolve() / 'mlflow.db'}"


@dataclass(frozen=True)
class Tracker:
    """Where runs are tracked; two strings, cheap to build and to send anywhere."""

    tracking_uri: str
    experiment: str = EXPERIMENT

    def client(self) -> "MlflowClient":
        """The process's MLflow client of this address."""
        return connect(self.tracking_uri)

    def connect(self) -> None:
        """Import MLflow and open its database or server ahead of the first call."""
        with self.guard("connect"):
            self.client()

    def guard(self, action: str) -> "Guard":
        """A context that turns an exception into a warning, said once per action and kind of failure."""
        return Guard(action, self.tracking_uri)

    def attempts(self, action: str) -> "Iterator[Guard]":
        """As `guard`, for a block that is repeated while the server is only just gone, as when it starts again."""
        return attempts(action, self.tracking_uri)

    def open_run(
        self,
        digest: str,
        *,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str] | None = None,
        flow_run_id: str | None = None,
        flow_run_url: str | None = None,
    ) -> str | None:
        """Attach to the parent run of `digest`, or create it; params are logged once.

        None where MLflow does not answer: the run then goes on untracked, with a warning.
        """
        for attempt in self.attempts("open the run, so nothing of it is tracked"):
            with attempt:
                run = self._attach({RUN_TAG: digest}, name, tags or {}, params, flow_run_id)
                if flow_run_url is not None:
                    self.client().set_tag(run.info.run_id, FLOW_RUN_URL_TAG, flow_run_url)
                return run.info.run_id
        return None

    def stage_run(
        self,
        parent_run_id: str | None,
        *,
        key: str,
        name: str,
        iteration: int | None = None,
        params: Mapping[str, Any] | None = None,
        flow_run_id: str | None = None,
    ) -> "StageRun":
        """Attach to the child run of stage `key` under the parent, or create it; untracked where that fails."""
        for attempt in self.attempts(f"open the run of stage {name!r}, so this stage is not tracked"):
            with attempt:
                if parent_run_id is not None:
                    identity = {STAGE_TAG: key, PARENT_TAG: parent_run_id}
                    tags = {} if iteration is None else {ITERATION_TAG: str(iteration)}
                    params = {**({} if iteration is None else {"iteration": iteration}), **(params or {})}
                    return StageRun(self, self._attach(identity, name, tags, params, flow_run_id))
        return StageRun(self, None)

    def close_run(self, run_id: str | None, status: Status = "FINISHED") -> None:
        """End a run; one that is finished already keeps its end time. A good end waits for what stages still send."""
        if is_good := status == "FINISHED":
            await_senders()
        for attempt in self.attempts("close a run") if is_good else [self.guard("close a run")]:
            with attempt:
                if run_id is not None and not (is_good and _is_finished(self.client().get_run(run_id))):
                    self.client().set_terminated(run_id, status)

    def log_parent_metrics(self, run_id: str | None, metrics: Mapping[str, float], *, step: int) -> None:
        """Repeat an iteration's metrics on the parent, `step` = iteration; what it has at that step is skipped."""
        for attempt in self.attempts("log an iteration's metrics on the parent"):
            with attempt:
                if run_id is not None:
                    client = self.client()
                    new = [m for m in to_metrics(metrics, step) if not _has_step(client, run_id, m.key, step)]
                    client.log_batch(run_id, metrics=new)

    def log_inputs(self, run_id: str | None, data: Sequence[TrackedData]) -> None:
        """Log the data sets that a run reads; MLflow keeps each digest once."""
        for attempt in self.attempts("log the data sets"):
            with attempt:
                if run_id is not None:
                    self.client().log_inputs(run_id, [to_dataset_input(item) for item in data])

    def log_table(self, run_id: str | None, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows as `tables/<name>.json`, in place of an earlier one (MLflow's own `log_table` appends)."""
        for attempt in self.attempts(f"log table {name!r}"):
            with attempt:
                if run_id is not None:
                    client, path = self.client(), f"tables/{name}.json"
                    columns = list(dict.fromkeys(column for row in rows for column in row))
                    values = [[row.get(column) for column in columns] for row in rows]
                    client.log_dict(run_id, {"columns": columns, "data": values}, path)
                    tables = json.loads(client.get_run(run_id).data.tags.get(TABLES_TAG, "[]"))
                    if (entry := {"path": path, "type": "table"}) not in tables:
                        client.set_tag(run_id, TABLES_TAG, json.dumps([*tables, entry]))

    def log_text(self, run_id: str | None, name: str, text: str) -> None:
        """Write a text file, `name` with its suffix (e.g. "report.md"), among the run's artifacts."""
        for attempt in self.attempts(f"log text {name!r}"):
            with attempt:
                if run_id is not None:
                    self.client().log_text(run_id, text, name)

    def figure_url(self, run_id: str, name: str) -> str | None:
        """The address that a browser finds `figures/<name>.png` of a run at; None for a database address."""
        return self._shown(f"get-artifact?path=figures/{name}.png&run_uuid={run_id}")

    def run_url(self, run_id: str | None) -> str | None:
        """The run's address in MLflow's UI; None for a database address or an untracked run."""
        for attempt in self.attempts("look up a run's address"):
            with attempt:
                if run_id is not None and self.ui_url("") is not None:
                    return self.ui_url(f"experiments/{self.client().get_run(run_id).info.experiment_id}/runs/{run_id}")
        return None

    def ui_url(self, page: str) -> str | None:
        """The address of a page of MLflow's UI; None where the tracking address is a database."""
        return self._shown(f"#/{page}?{TRAINING}")

    def _shown(self, path: str) -> str | None:
        address = ui_address(self.tracking_uri)
        return address and f"{address}/{path}"

    def _attach(
        self,
        identity: Mapping[str, str],
        name: str,
        tags: Mapping[str, str],
        params: Mapping[str, Any],
        flow_run_id: str | None,
    ) -> "Run":
        client, experiment_id = self.client(), self._experiment_id()
        run = _first_run(client, experiment_id, identity)
        if run is None:
            mine = client.create_run(experiment_id, tags={**tags, **identity}, run_name=name)
            run = _first_run(client, experiment_id, identity) or mine
            if run.info.run_id != mine.info.run_id:  # two processes created one at once: both take the first
                client.delete_run(mine.info.run_id)
        elif run.info.status in ("FAILED", "KILLED"):
            client.update_run(run.info.run_id, status="RUNNING")
        flow_run_ids = run.data.tags[FLOW_RUNS_TAG].split(",") if FLOW_RUNS_TAG in run.data.tags else []
        if flow_run_id is not None and flow_run_id not in flow_run_ids:
            client.set_tag(run.info.run_id, FLOW_RUNS_TAG, ",".join([*flow_run_ids, flow_run_id][-MAX_FLOW_RUN_IDS:]))
        _log_missing_params(client, run, params)
        return run

    def _experiment_id(self) -> str:
        from mlflow.exceptions import MlflowException

        client = self.client()
        if (found := client.get_experiment_by_name(self.experiment)) is not None:
            return found.experiment_id
        folder = sqlite_folder(self.tracking_uri)  # a server chooses its artifact folder itself
        try:
            place = folder and (folder / "mlflow-artifacts").as_uri()
            return client.create_experiment(self.experiment, place, tags=EXPERIMENT_TAGS)
        except MlflowException:
            if (found := client.get_experiment_by_name(self.experiment)) is None:
                raise
            return found.experiment_id  # another process created it meanwhile


class StageRun:
    """A stage's MLflow run; as a context manager it ends as FINISHED, or as FAILED where an exception passes.

    `finished`: an earlier attempt finished it, so nothing is logged. A retried stage repeats steps: per
    metric, those up to the last one logged are skipped.
    """

    def __init__(self, tracker: Tracker, run: "Run | None") -> None:
        self.run_id: str | None = None if run is None else run.info.run_id
        self.finished: bool = run is not None and _is_finished(run)
        self._tracker = tracker
        self._sender: MetricSender | None = None
        self._last_steps: dict[str, int] = {}
        if run is not None and not self.finished:
            self._last_steps = {metric.key: metric.step for metric in run.to_proto().data.metrics}
            self._sender = MetricSender(tracker.tracking_uri, run.info.run_id)
            self._sender.start()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Hand over a step's metrics; returns at once, they are sent within seconds."""
        with self._tracker.guard("log metrics"):
            if self._sender is not None:
                new = [
                    m
                    for m in to_metrics(metrics, step)
                    if m.key not in self._last_steps or step > self._last_steps[m.key]
                ]
                self._last_steps.update((metric.key, step) for metric in new)
                self._sender.put(new)

    def log_image(self, name: str, png: bytes) -> str | None:
        """Hand over `figures/<name>.png`, in place of an earlier attempt's; returns at once, it is sent within seconds.

        Returns the address that it will have; None for a database address and an untracked or finished stage.
        """
        if self._sender is None or self.run_id is None:
            return None
        self._sender.put_file(f"figures/{name}.png", png)
        return self._tracker.figure_url(self.run_id, name)

    def next_step(self, prefix: str) -> int:
        """The first step at which metrics whose keys begin like this are new."""
        return 1 + max((step for key, step in self._last_steps.items() if key.startswith(prefix)), default=-1)

    def close(self, status: Status = "FINISHED") -> None:
        """Send what waits and end the run; after `CLOSE_SECONDS` this goes on in the background."""
        if self._sender is not None:
            self._sender.finish(status)
            self._sender = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close("FINISHED" if kind is None else "FAILED")


def _first_run(client: "MlflowClient", experiment_id: str, tags: Mapping[str, str]) -> "Run | None":
    condition = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    runs = client.search_runs([experiment_id], condition)
    return min(runs, key=lambda run: (run.info.start_time, run.info.run_id), default=None)


def _is_finished(run: "Run") -> bool:
    return run.info.status == "FINISHED"


def _has_step(client: "MlflowClient", run_id: str, key: str, step: int) -> bool:
    return any(metric.step == step for metric in client.get_metric_history(run_id, key))


def _log_missing_params(client: "MlflowClient", run: "Run", params: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    flat = {valid_key(path): shortened(str(value)) for path, value in leaves(params)}
    client.log_batch(run.info.run_id, params=[Param(k, v) for k, v in flat.items() if k not in run.data.params])
