"""Flow runs of this folder whose process was killed: each holds a lock file while it lasts, which the kernel frees.

The server of a run that starts one of its own dies with it, so that no heartbeat can tell; the next command does.
"""

import fcntl
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import IO, Any

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from tasks.services import home_folder

# by flow run: a file whose first line is the run's mark, the others the stages that it has finished
_held: dict[str, IO[str]] = {}
_writing = Lock()


def hold(run_id: str, go_on: str) -> None:
    """Mark the flow run as this process's, with what to do should the process be killed."""
    if run_id in _held:
        return
    path = _folder() / f"{run_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")
    fcntl.flock(file, fcntl.LOCK_EX)
    file.truncate(0)
    file.write(json.dumps({"host": socket.gethostname(), "go_on": go_on}) + "\n")
    file.flush()
    _held[run_id] = file


def is_stage(name: str) -> bool:
    """Whether a task run of this name is a whole stage: plans and groups are pieces of one."""
    return not name.startswith("plan: ") and not name.endswith(": a group")


def note_stage(run_id: str, name: str) -> None:
    """Write down that the run has finished this stage; where the server does not know it yet, its process is gone."""
    with _writing:
        if (file := _held.get(run_id)) is not None:
            file.write(f"{name}\n")
            file.flush()


def last_stage(run_id: str) -> str | None:
    """The stage that the run's process here finished last, whether it is this one, another, or gone."""
    path = _folder() / f"{run_id}.json"
    lines = path.read_text().splitlines(keepends=True)[1:] if path.exists() else []
    return next((line.rstrip("\n") for line in reversed(lines) if line.endswith("\n")), None)


def let_go(run_id: str) -> None:
    """The flow run has ended, in this process or in one that is gone."""
    with _writing:
        file = _held.pop(run_id, None)
    if file is not None or any(path.stem == run_id for path, _ in _lost()):
        (_folder() / f"{run_id}.json").unlink(missing_ok=True)
    if file is not None:
        file.close()


def report_lost_runs() -> int:
    """Set flow runs that count as running, but whose process here is gone, to Crashed; returns how many they were."""
    lost = list(_lost())
    if not lost:
        return 0
    number = 0
    with get_client(sync_client=True) as client:
        for path, left in lost:
            try:
                run = client.read_flow_run(path.stem)  # type: ignore[arg-type]
            except ObjectNotFound:
                continue  # another server's
            if run.state is not None and (run.state.is_scheduled() or run.state.is_pending()):
                continue  # it was Crashed already, and is about to go on
            if run.state is None or not run.state.is_final():
                stage = f"Last good stage: {name}. " if (name := last_stage(path.stem)) else ""
                message = f"Its process was killed. {stage}Finished stages are kept. To go on: {left['go_on']}"
                client.set_flow_run_state(run.id, Crashed(message=message), force=True)
                number += 1
            path.unlink(missing_ok=True)
    return number


def _lost() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Lock files of this machine that nobody holds."""
    for path in _folder().glob("*.json"):
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                left = json.loads(file.readline())
            except (BlockingIOError, ValueError):  # held, or not written yet
                continue
        if left["host"] == socket.gethostname():
            yield path, left


def _folder() -> Path:
    return home_folder() / "flow-runs"
