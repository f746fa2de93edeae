"""The local Prefect server, worker and MLflow server: start, find, stop. No flow imports this.

Everything they write lies in one folder, `.noisy-student/` of the checkout: databases, logs, PID files, artifacts. A
service is reused when it answers and is ours, started when it is missing, replaced when it hangs.
"""

import contextlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.processes import (
    Record,
    ServerError,
    becomes_free,
    describe,
    exclusive,
    free_port,
    listener,
    log_path,
    log_tail,
    read_record,
    start,
    stop,
    wait_healthy,
)
from tasks.services import (
    SOURCE,
    Servers,
    Service,
    environment,
    fetch,
    home_folder,
    mlflow_service,
    prefect_service,
    report_lost_flow_runs,
    servers_at,
    work_folder,
    worker_service,
)

START_S = 180.0  # the first start makes a database: 12 s on two busy cores
REUSE_S = 15.0  # how long a running but silent service may take before it is replaced
SEND_S = 5.0
STOP_ORDER = ("worker", "mlflow", "prefect")  # the Prefect server last: it is told of the flow runs that ended

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Status:
    """One service as it is now; `state` is "running", "not answering" or "stopped"."""

    name: str
    state: str
    pid: int | None
    url: str | None
    log: Path


def up(home: Path | None = None) -> Servers:
    """Have the three services run; reuse what answers and is ours.

    Raises ServerError when a port belongs to something else, or a service does not answer in time.
    """
    servers = servers_at(home or home_folder())
    with exclusive(servers.home / "lock", limit_s=3 * START_S):
        first = [prefect_service(servers), mlflow_service(servers)]
        for service, record in [(service, _running(servers, service)) for service in first]:  # both start at once
            _wait(servers, service, record)
        worker = worker_service(servers)
        if _status(servers, worker).state == "stopped":  # else it may be about to start the run
            report_lost_flow_runs(servers)
        _wait(servers, worker, _running(servers, worker))
    return servers


def down(home: Path | None = None) -> list[str]:
    """Stop what runs, flow runs included; the names of what was stopped. Raises ServerError when something survives."""
    servers = servers_at(home or home_folder())
    stopped = []
    with exclusive(servers.home / "lock", limit_s=3 * START_S):
        for name in STOP_ORDER:
            stopped += [name] if stop(servers.home, name) else []
            if name == "worker" and _status(servers, prefect_service(servers)).state == "running":
                report_lost_flow_runs(servers)
    return stopped


def status(home: Path | None = None) -> list[Status]:
    """The three services as they are now."""
    servers = servers_at(home or home_folder())
    return [_status(servers, service(servers)) for service in (prefect_service, worker_service, mlflow_service)]


def deploy(home: Path | None = None) -> None:
    """Write the deployments of `deployments/prefect.yaml` to the local server, over what is there, and the automation.

    Raises ServerError with Prefect's own words when it refuses.
    """
    servers = servers_at(home or home_folder())
    file = SOURCE / "deployments" / "prefect.yaml"
    _ask(servers, ["prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)])
    _ask(servers, ["tasks.automation"])


def _ask(servers: Servers, command: list[str]) -> None:
    """Have another Python module talk to the local server; raises ServerError with its own words when that fails."""
    words = " ".join(command)
    arguments = [sys.executable, "-m", *command]
    try:
        done = subprocess.run(
            arguments, env=environment(servers), cwd=work_folder(), capture_output=True, text=True, timeout=START_S
        )
    except subprocess.TimeoutExpired:
        raise ServerError(f"{words} took over {START_S:.0f} s; {log_tail(servers.home, 'prefect')}") from None
    if done.returncode != 0:
        raise ServerError(f"{words} failed:\n{(done.stdout + done.stderr).strip()[-2000:]}")


@contextlib.contextmanager
def temporary_prefect_server(home: Path | None = None) -> Iterator[str]:
    """The API address of a Prefect server for one run in this process: one that answers, else one of our own.

    One that answers is that of PREFECT_API_URL, or this folder's. Our own keeps its runs in this folder's database and
    ends with this process, however that ends. Raises ServerError when it does not answer in time.
    """
    servers = servers_at(home or home_folder())
    named = os.environ.get("PREFECT_API_URL")
    if named and fetch(f"{named.rstrip('/')}/health") is not None:
        yield named
    elif _status(servers, prefect_service(servers)).state == "running":
        yield servers.prefect_api_url
    else:
        if named:
            logger.warning("PREFECT_API_URL=%s does not answer; this run starts a Prefect server of its own", named)
        with _own_server(servers.home) as url:
            yield url


def _status(servers: Servers, service: Service) -> Status:
    record, log = read_record(servers.home, service.name), log_path(servers.home, service.name)
    if record is None or not record.alive or record.command != service.command:
        return Status(name=service.name, state="stopped", pid=None, url=service.url, log=log)
    state = "running" if service.is_well(record) else "not answering"
    return Status(name=service.name, state=state, pid=record.pid, url=service.url, log=log)


def _running(servers: Servers, service: Service) -> Record:
    """The service's process: the one that runs with these very settings and answers, else a new one."""
    record = read_record(servers.home, service.name)
    if record and record.command == service.command and not service.has_lost_database(record):
        still_starting_s = record.since + START_S - time.time()
        if wait_healthy(record, service.is_well, max(still_starting_s, REUSE_S)):
            return record
    stop(servers.home, service.name, spare_children_of=service.command if service.lasting_children else None)
    if service.port and not becomes_free(service.port):
        pid = listener(service.port)
        owner = f" by {describe(pid)}" if pid else ""
        raise ServerError(f"port {service.port} of {service.name} is taken{owner}: stop that, or {service.remedy}")
    service.check_database()
    return start(servers.home, service.command, folder=work_folder(), environment=environment(servers))


def _wait(servers: Servers, service: Service, record: Record) -> None:
    if not wait_healthy(record, service.is_well, START_S):
        fault = f"did not answer within {START_S:.0f} s" if record.alive else "ended while it started"
        raise ServerError(f"{service.name} {fault}; {log_tail(servers.home, service.name)}")


@contextlib.contextmanager
def _own_server(home: Path) -> Iterator[str]:
    servers = Servers(home=home, prefect_url=f"http://127.0.0.1:{free_port()}", mlflow_url="")
    log = log_path(home, f"prefect-of-{os.getpid()}")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tasks.processes", *prefect_service(servers).command.arguments],
            env=environment(servers),
            stdin=subprocess.PIPE,  # never written to: its end tells the server that we are gone
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # an interrupt from the terminal is for us; the server ends last
        )
    try:
        deadline = time.monotonic() + START_S
        while fetch(f"{servers.prefect_api_url}/health") is not True:
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServerError(f"the Prefect server of this run did not start; {log_tail(home, log.stem)}")
            time.sleep(0.1)
        yield servers.prefect_api_url
        _send_queued()
        log.unlink()
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


def _send_queued() -> None:
    """Have this process's Prefect client send the logs and events that it holds, task states among them."""
    from prefect.events.worker import (
        EventsWorker,
    )  # here: Prefect takes 2 s to import, and `up` and `down` need none of it
    from prefect.logging.handlers import APILogWorker

    for queue in (EventsWorker, APILogWorker):
        queue.drain_all(timeout=SEND_S)
