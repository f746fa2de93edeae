"""What the three local services are: command, settings, address, and the question that shows them to be healthy."""

import json
import os
import sqlite3
import sys
import urllib.request
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tasks.mlflow_connection import EXPERIMENT, TRAINING
from tasks.processes import Command, Record, ServerError, start_time

WORK_POOL = "noisy-student"
SOURCE = Path(__file__).resolve().parents[1]

# With Prefect's defaults (batches of 1 and 20, 5 s) a local server falls behind a flow run of some hundred tasks.
PREFECT_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_TRIGGERS_READ_BATCH_SIZE": "200",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # the least; four missed ones: tasks/automation.py
    "PREFECT_WORKER_QUERY_SECONDS": "2",  # a run starts within 2 s of being asked for
    "PREFECT_WORKER_HEARTBEAT_SECONDS": "10",
    "PREFECT_RUNNER_AUTO_INSTALL_DEPENDENCIES": "false",  # else uv would install the checkout anew for each run
}


@dataclass(frozen=True, kw_only=True)
class Servers:
    """Where the local servers listen, and the folder that holds all they write."""

    home: Path
    prefect_url: str
    mlflow_url: str

    @property
    def prefect_api_url(self) -> str:
        """What goes into PREFECT_API_URL; `prefect_url` is the user interface."""
        return f"{self.prefect_url}/api"


@dataclass(frozen=True, kw_only=True)
class Service:
    """One background process; the worker has no port. `remedy` says what to set when the port is taken.

    A service with `lasting_children` is replaced without them: a flow run goes on when its worker dies. `database` is
    its SQLite file, which it makes at its first start.
    """

    command: Command
    url: str | None
    port: int | None
    remedy: str
    is_healthy: Callable[[Record], bool]
    lasting_children: bool = False
    database: Path | None = None

    def is_well(self, record: Record) -> bool:
        """Whether it answers, and what it is told is kept: its database may have been removed under it."""
        return self.is_healthy(record) and not self._is_without_database

    def has_lost_database(self, record: Record) -> bool:
        """Whether it answers without its database, which it made before it did."""
        return self._is_without_database and self.is_healthy(record)

    @property
    def _is_without_database(self) -> bool:
        return self.database is not None and not self.database.exists()

    def check_database(self) -> None:
        """Raise ServerError where the database is there, and is none."""
        if self.database is None or not self.database.exists():
            return
        try:
            with closing(sqlite3.connect(f"{self.database.as_uri()}?mode=ro", uri=True)) as connection:
                connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError:
            return  # it is busy
        except sqlite3.DatabaseError as error:
            raise ServerError(
                f"{self.database}: cannot be read ({error}); move it and {self.database.name}-* away and try again: "
                f"{self.name} forgets its runs, finished stages are kept"
            ) from None

    @property
    def name(self) -> str:
        """The name of the PID file, of the log, and in messages."""
        return self.command.name


def home_folder() -> Path:
    """NOISY_STUDENT_HOME, else `.noisy-student/` of the checkout, else of the current folder."""
    named = os.environ.get("NOISY_STUDENT_HOME")
    return Path(named).resolve() if named else work_folder() / ".noisy-student"


def work_folder() -> Path:
    """The folder that flow runs work in: the checkout; where we are installed from a wheel, the current folder."""
    return SOURCE if (SOURCE / "pyproject.toml").exists() else Path.cwd()


def servers_at(home: Path) -> Servers:
    """The addresses that the servers of a folder have, running or not.

    Raises ServerError when NOISY_STUDENT_PREFECT_PORT or NOISY_STUDENT_MLFLOW_PORT is no port.
    """
    prefect_port, mlflow_port = _port("NOISY_STUDENT_PREFECT_PORT", 4200), _port("NOISY_STUDENT_MLFLOW_PORT", 5000)
    return Servers(
        home=home.resolve(),
        prefect_url=f"http://127.0.0.1:{prefect_port}",
        mlflow_url=f"http://127.0.0.1:{mlflow_port}",
    )


def environment(servers: Servers) -> dict[str, str]:
    """The environment of all that talks to these servers, commands and flow runs alike.

    Settings of other Prefect and MLflow installations do not leak in; PREFECT_LOGGING_* may.
    """
    foreign = [name for name in os.environ if name.startswith(("PREFECT_", "MLFLOW_", "NOISY_STUDENT_SERVICE"))]
    kept = {k: v for k, v in os.environ.items() if k not in foreign or k.startswith("PREFECT_LOGGING_")}
    no_proxy = ",".join(filter(None, [os.environ.get("NO_PROXY", os.environ.get("no_proxy")), "127.0.0.1,localhost"]))
    return kept | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
        "DO_NOT_TRACK": "1",
        "NOISY_STUDENT_HOME": str(servers.home),
        "PREFECT_HOME": str(servers.home),
        "PREFECT_API_URL": servers.prefect_api_url,
        "MLFLOW_TRACKING_URI": servers.mlflow_url,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "NOISY_STUDENT_WORK_POOL": WORK_POOL,  # deployments/prefect.yaml
        **PREFECT_SETTINGS,
    }


def prefect_service(servers: Servers) -> Service:
    """The Prefect server, on SQLite."""
    port = int(servers.prefect_url.rpartition(":")[2])
    arguments = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    return Service(
        command=_command("prefect", arguments, PREFECT_SETTINGS),
        url=servers.prefect_url,
        port=port,
        remedy="set NOISY_STUDENT_PREFECT_PORT to a free port and, so that bare prefect commands find it too,"
        " PREFECT_API_URL=http://127.0.0.1:PORT/api",
        is_healthy=lambda _: fetch(f"{servers.prefect_api_url}/health") is True,
        database=servers.home / "prefect.db",
    )


def mlflow_service(servers: Servers) -> Service:
    """The MLflow server, on the very database and artifact folder that a run without a server writes to itself."""
    port, artifacts = int(servers.mlflow_url.rpartition(":")[2]), (servers.home / "mlflow-artifacts").as_uri()
    arguments = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    arguments += ["--backend-store-uri", f"sqlite:///{servers.home / 'mlflow.db'}"]
    # a location of the proxy's (mlflow-artifacts:) could not be read without the server
    arguments += ["--default-artifact-root", artifacts, "--artifacts-destination", artifacts]
    return Service(
        command=_command("mlflow", arguments, {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}),
        url=servers.mlflow_url,
        port=port,
        remedy="set NOISY_STUDENT_MLFLOW_PORT to a free port",
        is_healthy=lambda _: fetch(f"{servers.mlflow_url}/health") == "OK",
        database=servers.home / "mlflow.db",
    )


def worker_service(servers: Servers) -> Service:
    """The worker of the work pool, which it creates; flow runs inherit its environment."""
    arguments = ["prefect", "worker", "start", "--pool", WORK_POOL, "--type", "process", "--name", WORK_POOL]
    settings = {
        "PREFECT_API_URL": servers.prefect_api_url,
        "MLFLOW_TRACKING_URI": servers.mlflow_url,
        "NOISY_STUDENT_FOLDER": str(work_folder()),  # where flow runs work: see deployments/prefect.yaml
    }
    return Service(
        command=_command("worker", arguments, settings),
        url=None,
        port=None,
        remedy="",
        is_healthy=lambda record: _is_online(servers, since=record.since),
        lasting_children=True,
    )


def report_lost_flow_runs(servers: Servers) -> None:
    """Set flow runs that count as running, but whose process is gone, to Crashed: then they can be retried."""
    active = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
    pool = {"name": {"any_": [WORK_POOL]}}
    url = f"{servers.prefect_api_url}/flow_runs"
    for run in fetch(f"{url}/filter", {"flow_runs": active, "work_pools": pool}) or []:
        pid = run["infrastructure_pid"]
        if not (pid and pid.isdecimal() and start_time(int(pid))):
            state = {"type": "CRASHED", "name": "Crashed", "message": "Its process was stopped; retry it to go on."}
            fetch(f"{url}/{run['id']}/set_state", {"state": state, "force": True})


def fetch(url: str, body: dict[str, Any] | None = None, timeout_s: float = 3.0) -> Any | None:
    """What a server on loopback answers, parsed where it is JSON; None when it does not, or refuses."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=timeout_s) as answer:
            text = answer.read().decode()
    except (OSError, ValueError):  # ValueError: what answers does not speak HTTP
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text


def mlflow_page(servers: Servers) -> str:
    """Where MLflow has the charts of all runs; its first page, where there was no run yet."""
    url = f"{servers.mlflow_url}/api/2.0/mlflow/experiments/get-by-name?experiment_name={EXPERIMENT}"
    found = fetch(url)
    if not isinstance(found, dict) or "experiment" not in found:
        return servers.mlflow_url
    number = found["experiment"]["experiment_id"]
    return f"{servers.mlflow_url}/#/experiments/{number}/runs?compareRunsMode=CHART&{TRAINING}"


def _is_online(servers: Servers, since: float) -> bool:
    url = f"{servers.prefect_api_url}/work_pools/{WORK_POOL}/workers/filter"
    workers = fetch(url, {"workers": {"status": {"any_": ["ONLINE"]}}}) or []
    beats = [worker["last_heartbeat_time"] for worker in workers if worker["name"] == WORK_POOL]
    return any(datetime.fromisoformat(beat).timestamp() > since for beat in beats if beat)


def _command(name: str, arguments: list[str], settings: dict[str, str]) -> Command:
    return Command(name=name, arguments=[sys.executable, "-m", *arguments], settings=settings)


def _port(variable: str, default: int) -> int:
    text = os.environ.get(variable) or str(default)
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise ServerError(f"{variable}={text!r}: must be a port, 1 to 65535; unset it for {default}")
    return int(text)
