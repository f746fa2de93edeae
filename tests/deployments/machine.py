"""The services of compose.yaml as processes of this machine, on free ports: its commands and variables, no engine."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.processes import free_port
from tests.deployments.composed import FOLDER, example_variables, load

SECRETS = {name: f"secret-{name.lower()}" for name in example_variables()} | {"PREFECT_AUTH": "team:secret-auth"}
LIMIT_S = 240.0
Query = Callable[[str, str], list[tuple[Any, ...]]]
# Debian keeps PostgreSQL's programs out of PATH
POSTGRES = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"))] + os.get_exec_path()


def program(name: str) -> str | None:
    """Where a program is; None where its package is not installed."""
    return shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), *POSTGRES]))


def as_postgres(arguments: list[str]) -> list[str]:
    """PostgreSQL refuses to run as root: as the user of its package then."""
    if os.geteuid() != 0:
        return arguments
    return ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--init-groups", *arguments]


class Machine:
    """What was started, and where the services of compose.yaml are here instead of on their own hosts.

    `variables` replace those of the same names in compose.yaml, as the address of an S3 store.
    """

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self.folder, self.variables = folder, variables
        self.ports = {name: free_port() for name in ("postgres", "redis", "prefect", "mlflow", "worker")}
        self.composed = load(SECRETS)
        self._ends = contextlib.ExitStack()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Machine":
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()  # the last started first

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def environment(self, service: str) -> dict[str, str]:
        """The service's variables, hosts and ports replaced by those of this machine."""
        here = {
            "PREFECT_SERVER_DATABASE_HOST": "127.0.0.1",
            "PREFECT_SERVER_DATABASE_PORT": str(self.ports["postgres"]),
            "PREFECT_REDIS_MESSAGING_HOST": "127.0.0.1",
            "PREFECT_REDIS_MESSAGING_PORT": str(self.ports["redis"]),
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.ports["postgres"]),
            "PREFECT_API_URL": f"{self.url('prefect')}/api",
            "MLFLOW_TRACKING_URI": self.url("mlflow"),
            "MLFLOW_AUTH_CONFIG_PATH": str(FOLDER / "mlflow.ini"),
            **self.variables,
        }
        given: dict[str, str] = self.composed["services"][service]["environment"]
        return {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()]),
            "HOME": str(self.folder),
            "NO_PROXY": "127.0.0.1,localhost",
            "DO_NOT_TRACK": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "DEPLOYMENTS": str(FOLDER),  # the Dockerfile's
            "NOISY_STUDENT_FOLDER": str(self.folder),
            "NOISY_STUDENT_HOME": str(self.folder / "home"),
            "PREFECT_HOME": str(self.folder / service),
            "PREFECT_RUNNER_AUTO_INSTALL_DEPENDENCIES": "false",
            "PREFECT_SERVER_API_PORT": str(self.ports["prefect"]),
            "PREFECT_WORKER_WEBSERVER_PORT": str(self.ports["worker"]),
            **{name: here.get(name, value) for name, value in given.items()},
        }

    def command(self, service: str) -> list[str]:
        arguments = [
            "127.0.0.1" if each == "0.0.0.0" else each for each in self.composed["services"][service]["command"]
        ]
        return [str(self.ports["mlflow"]) if each == "5000" else each for each in arguments]

    def start(self, name: str, command: list[str], environment: Mapping[str, str]) -> None:
        """Have a command run until this block ends, or this process, however that ends."""
        log = self._ends.enter_context((self.folder / f"{name}.log").open("ab"))
        process = subprocess.Popen(
            [sys.executable, "-m", "tasks.processes", *command],
            env={"PYTHONPATH": str(FOLDER.parent), **environment},
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        self._processes[name] = process
        self._ends.callback(process.wait)
        assert process.stdin is not None
        self._ends.callback(process.stdin.close)

    def serve(self, service: str) -> None:
        self.start(service, self.command(service), self.environment(service))

    def serve_redis(self) -> None:
        password, port = SECRETS["REDIS_PASSWORD"], str(self.ports["redis"])
        options = ["--bind", "127.0.0.1", "--port", port, "--requirepass", password, "--save", ""]
        self.start("redis", ["redis-server", *options], {"PATH": os.environ["PATH"]})

    def watcher(self, service: str) -> int:
        """The process that starts the service's own and lasts as long as this."""
        return self._processes[service].pid

    def run(self, service: str, *command: str) -> str:
        """A command that ends, by default the service's own, with the service's variables; what it printed."""
        arguments = list(command) or self.command(service)
        done = subprocess.run(
            arguments, env=self.environment(service), cwd=self.folder, capture_output=True, text=True, timeout=LIMIT_S
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        return done.stdout

    def ask(self, url: str, user: str = "", body: Any = None, method: str | None = None) -> Any:
        """What a server answers to `name:password`, parsed; the status where it refuses."""
        headers = {"Content-Type": "application/json"}
        if user:
            headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
        data = None if body is None else json.dumps(body).encode()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(urllib.request.Request(url, data, headers, method=method), timeout=10) as answer:
                text = answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code
        return json.loads(text) if text[:1] in "[{" else text

    def wait(self, name: str, is_ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while True:
            with contextlib.suppress(OSError):
                if is_ready():
                    return
            lasts = self._processes[name].poll() is None and time.monotonic() < deadline
            assert lasts, (self.folder / f"{name}.log").read_text()[-3000:]
            time.sleep(0.2)

    def wait_for_health(self, *services: str) -> None:
        """Ask as the health checks of compose.yaml do."""
        paths = {"prefect": "/api/health", "mlflow": "/health", "worker": "/health"}
        for service in services:
            url = self.url(service) + paths[service]
            assert paths[service] in str(self.composed["services"][service]["healthcheck"]["test"])
            self.wait(service, lambda url=url: not isinstance(self.ask(url), int))


@contextlib.contextmanager
def postgres(machine: Machine, folder: Path) -> Iterator[Query]:
    """A PostgreSQL with the databases of compose.yaml; gives `query(database, statement)`. `folder` is its user's."""
    import psycopg2

    given = machine.composed["services"]["postgres"]["environment"]
    initdb, server = program("initdb"), program("postgres")
    assert initdb and server
    password = folder / "password"
    password.write_text(given["POSTGRES_PASSWORD"])
    if os.geteuid() == 0:
        for path in (folder, password):
            shutil.chown(path, "postgres", "postgres")
    data, port, user = str(folder / "data"), str(machine.ports["postgres"]), given["POSTGRES_USER"]
    made = [
        initdb,
        "--pgdata",
        data,
        "--username",
        user,
        "--auth",
        "scram-sha-256",
        "--pwfile",
        str(password),
        "--no-sync",
    ]
    subprocess.run(as_postgres(made), check=True, capture_output=True, cwd=folder)
    options = ["-D", data, "-h", "127.0.0.1", "-p", port, "-k", str(folder), "-c", "fsync=off"]
    machine.start("postgres", as_postgres([server, *options]), {"PATH": os.defpath})

    def query(database: str, statement: str) -> list[tuple[Any, ...]]:
        connection = psycopg2.connect(
            host="127.0.0.1", port=port, user=user, password=given["POSTGRES_PASSWORD"], dbname=database
        )
        connection.autocommit = True
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def answers() -> bool:
        with contextlib.suppress(psycopg2.OperationalError):
            return bool(query("postgres", "SELECT 1"))
        return False

    machine.wait("postgres", answers)
    statements = machine.composed["configs"]["databases"]["content"].split(";")
    for statement in [f"CREATE DATABASE {given['POSTGRES_DB']}", *filter(str.strip, statements)]:
        query("postgres", statement)
    yield query


@contextlib.contextmanager
def all_services(
    folder: Path, variables: Mapping[str, str], first: Sequence[str] = ()
) -> Iterator[tuple[Machine, Query]]:
    """The services of compose.yaml but the S3 store, deployed and healthy; `first`: what ends before the servers."""
    with tempfile.TemporaryDirectory() as database, Machine(folder, variables) as machine:
        machine.serve_redis()
        with postgres(machine, Path(database)) as query:
            for service in first:
                machine.run(service)
            machine.serve("prefect")
            machine.serve("mlflow")
            machine.wait_for_health("prefect", "mlflow")
            machine.run("deploy")
            machine.serve("worker")
            machine.wait_for_health("worker")
            yield machine, query
