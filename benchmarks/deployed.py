"""The services of compose.yaml by hand, runs of the deployment on them, and what a run leaves; for `operation`."""

import hashlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from benchmarks.interruption import descendants
from noisystudent_core.storage.manifest import Artifact
from noisystudent_core.storage.verify import artifact_urls
from tasks.processes import becomes_free, command_line, process_environment, start_time
from tests.deployments.machine import SECRETS, Machine, Query, all_services

SERVICES = {"worker": "worker", "server": "prefect", "mlflow": "mlflow"}  # what a supervisor starts again
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
RUN_LIMIT_S = 1200.0
SETTLE_S = 30.0  # that the last values may take to MLflow, and the processes of a run to end
POLL_S = 0.3
# what MLflow has of a flow run: the stage's key ("" for the run itself), metric and step, and how often
VALUES = """
SELECT coalesce(stage.value, ''), metric.key, metric.step, count(*) FROM metrics metric
JOIN tags run ON run.run_uuid = metric.run_uuid AND run.key = 'prefect.flow_run_ids'
LEFT JOIN tags stage ON stage.run_uuid = metric.run_uuid AND stage.key = 'noisy_student.stage'
WHERE run.value LIKE '%{run_id}%' AND metric.key NOT LIKE 'system/%' GROUP BY 1, 2, 3"""
STATUSES = """
SELECT count(*) FROM runs JOIN tags ON runs.run_uuid = tags.run_uuid AND tags.key = 'prefect.flow_run_ids'
WHERE tags.value LIKE '%{run_id}%' AND runs.status <> 'FINISHED'"""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run left: the table's digest, those of all artifacts by key, and what MLflow has."""

    table: str
    digests: dict[str, str]
    values: dict[tuple[str, str, int], int]  # how often each is there, by stage, metric and step
    num_unfinished: int  # MLflow runs
    num_models: int  # registered versions

    @property
    def iterations(self) -> list[int]:
        """Those whose `eval/top1` the run itself has."""
        return sorted(step for stage, key, step in self.values if (stage, key) == ("", "eval/top1"))


class Site:
    """The services, and runs of the deployment on them."""

    def __init__(self, machine: Machine, query: Query, parameters: Mapping[str, Any]) -> None:
        self.machine, self.query, self.parameters = machine, query, parameters
        self._api = f"{machine.url('prefect')}/api"

    def ask(self, path: str, body: Any = None) -> Any:
        """What the Prefect server answers; None where it does not."""
        with suppress(OSError, HTTPException):
            answer = self.machine.ask(f"{self._api}/{path}", SECRETS["PREFECT_AUTH"], body)
            return None if isinstance(answer, int) else answer
        return None

    def start(self, root: Path) -> str:
        """Have the worker run the deployment; the flow run's id, as soon as it is running."""
        deployment = self.ask("deployments/name/noisy-student/iterate")
        parameters = {"parameters": {"root": str(root), **self.parameters}}
        run = self.ask(f"deployments/{deployment['id']}/create_flow_run", parameters)
        self.wait_until(run["id"], lambda state: state == "RUNNING")
        return run["id"]

    def state(self, run_id: str) -> str | None:
        """None while the server does not answer."""
        run = self.ask(f"flow_runs/{run_id}")
        return run and run["state_type"]

    def wait_until(self, run_id: str, is_reached: Callable[[str | None], bool]) -> str:
        """Wait for a state of the run; returns it. Raises TimeoutError."""
        deadline = time.monotonic() + RUN_LIMIT_S
        while not is_reached(state := self.state(run_id)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{run_id} is {state} after {RUN_LIMIT_S:.0f} s; see {self.machine.folder}")
            time.sleep(POLL_S)
        return str(state)

    def end(self, run_id: str) -> str:
        """Wait for the run's end; returns its state."""
        return self.wait_until(run_id, lambda state: state in FINAL)

    def at_work(self, run_id: str) -> list[str]:
        """The stages that the run is at."""
        asked = {"flow_runs": {"id": {"any_": [run_id]}}, "task_runs": {"state": {"type": {"any_": ["RUNNING"]}}}}
        return sorted(task["name"] for task in self.ask("task_runs/filter", asked) or ())

    def outcome(self, run_id: str, root: Path) -> Outcome:
        """What the run left, its last values waited for."""
        asked = {"artifacts": {"key": {"any_": ["iterations"]}}, "flow_runs": {"id": {"any_": [run_id]}}}
        tables = {page["data"].replace(str(root), "ROOT") for page in self.ask("artifacts/filter", asked)}
        manifests = [Artifact.open(url).manifest for url in artifact_urls(str(root))]
        settle(lambda: not self.query("mlflow", STATUSES.format(run_id=run_id))[0][0])
        return Outcome(
            table=hashlib.sha256("".join(sorted(tables)).encode()).hexdigest(),
            digests={manifest.key: manifest.content_digest for manifest in manifests},
            values={
                (stage, key, step): n for stage, key, step, n in self.query("mlflow", VALUES.format(run_id=run_id))
            },
            num_unfinished=self.query("mlflow", STATUSES.format(run_id=run_id))[0][0],
            num_models=self.query("mlflow", "SELECT count(*) FROM model_versions")[0][0],
        )

    def forget_models(self) -> None:
        """Delete what is registered, so that the next run publishes its student again."""
        url = f"{self.machine.url('mlflow')}/api/2.0/mlflow/registered-models/delete"
        for (name,) in self.query("mlflow", "SELECT name FROM registered_models"):
            answer = self.machine.ask(url, f"admin:{SECRETS['MLFLOW_PASSWORD']}", {"name": name}, method="DELETE")
            assert answer == {}, answer

    def victims(self, kind: str, run_id: str) -> list[int]:
        """The processes that are to die: of a server all of its own, of the worker not the flow runs it started."""
        if kind in SERVICES:
            below = [pid for pid, _ in descendants(self.machine.watcher(SERVICES[kind]))]
            return [pid for pid in below if "PREFECT__FLOW_RUN_ID" not in process_environment(pid)]
        is_child = kind == "child"
        return [pid for pid in processes_of(run_id) if is_child == ("noisystudent_core.worker" in command_line(pid))]

    def kill(self, kind: str, run_id: str) -> None:
        """Kill it, and start again what a supervisor starts again."""
        settle(lambda: bool(self.victims(kind, run_id)))  # a stage's worker may just be starting
        for pid in self.victims(kind, run_id):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if (service := SERVICES.get(kind)) is not None:
            becomes_free(self.machine.ports[service])
            self.machine.serve(service)
            self.machine.wait_for_health(service)


@contextmanager
def scratch(keep: bool) -> Iterator[Path]:
    """A folder, left where it is with `keep`; no process that was started from it outlives the block."""
    folder = Path(tempfile.mkdtemp(prefix="operation-"))
    try:
        yield folder
    finally:
        for pid in started_from(folder):  # the orphans of a worker that was killed
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def site(folder: Path, parameters: Mapping[str, Any]) -> Iterator[Site]:
    """The services, started and stopped; `parameters` are those of every run."""
    with all_services(folder, {"MLFLOW_ARTIFACTS_DESTINATION": str(folder / "mlflow-artifacts")}) as (machine, query):
        yield Site(machine, query, parameters)


def settle(is_so: Callable[[], bool], limit_s: float = SETTLE_S) -> bool:
    """Wait for a condition for a while; whether it came true."""
    deadline = time.monotonic() + limit_s
    while not (so := is_so()) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return so


def processes_of(run_id: str) -> list[int]:
    """The live processes of a flow run, by what they have inherited."""
    return [pid for pid in alive() if process_environment(pid).get("PREFECT__FLOW_RUN_ID") == run_id]


def started_from(folder: Path) -> list[int]:
    return [pid for pid in alive() if process_environment(pid).get("NOISY_STUDENT_FOLDER") == str(folder)]


def alive() -> list[int]:
    numbers = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
    return [pid for pid in numbers if pid != os.getpid() and start_time(pid)]
