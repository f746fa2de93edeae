"""Processes of this machine: start one in the background, know it again later, stop it with all that it started.

A PID file alone lies: pids are reused, and a killed parent leaves children. So a PID file also holds the start time,
and all that is started here carries two environment variables that its children inherit and Linux shows under /proc.
"""

import contextlib
import fcntl
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from noisystudent_core.errors import NoisyStudentError

POLL_S = 0.1
TERMINATE_S = 10.0
KILL_S = 5.0
ALONE_S = 3.0
LOG_LINES = 20


class ServerError(NoisyStudentError, RuntimeError):
    """A local server could not be started, reached or stopped."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """What to run in the background, and the settings that make it what it is."""

    name: str
    arguments: list[str]
    settings: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Record:
    """The content of a PID file; `started` is the kernel's start time, `since` the same in seconds since 1970."""

    pid: int
    started: str
    since: float
    command: Command

    @property
    def alive(self) -> bool:
        """Whether this very process still runs, not another one under its number."""
        return start_time(self.pid) == self.started


def start_time(pid: int) -> str | None:
    """When a process started, as an opaque text; None when no such process runs (a zombie does not)."""
    if Path("/proc/self/stat").exists():
        try:
            # the name, second field, may hold blanks and brackets: count from its end; state is field 3, start 22
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]
    shown = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return shown.partition(" ")[2].strip() if shown and not shown.startswith("Z") else None


def process_environment(pid: int) -> dict[str, str]:
    """The environment a process was started with; empty where it cannot be read."""
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def command_line(pid: int) -> list[str]:
    """The arguments of a process; empty where they cannot be read."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").removesuffix("\0").split("\0")
    except OSError:
        return []


def marked(home: Path, name: str) -> set[int]:
    """Every live process that a command of this name brought about from this folder (none is found but on Linux)."""
    found = set()
    for pid in [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]:
        environment = process_environment(pid)
        marks = environment.get("NOISY_STUDENT_HOME"), environment.get("NOISY_STUDENT_SERVICE")
        if marks == (str(home), name) and start_time(pid):
            found.add(pid)
    return found - {os.getpid()}


def read_record(home: Path, name: str) -> Record | None:
    """What the PID file says; None when there is none or it makes no sense."""
    try:
        content = json.loads((home / f"{name}.pid").read_text())
        return Record(**content | {"command": Command(**content["command"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def log_path(home: Path, name: str) -> Path:
    """Where a command's output goes."""
    return home / "logs" / f"{name}.log"


def log_tail(home: Path, name: str) -> str:
    """The last lines of a command's output, to be shown with an error."""
    path = log_path(home, name)
    lines = path.read_text(errors="replace").splitlines()[-LOG_LINES:] if path.exists() else []
    return "\n".join([f"last lines of {path}:", *lines])


def start(home: Path, command: Command, *, folder: Path, environment: dict[str, str]) -> Record:
    """Start a command in a session of its own, its output in the log, and leave its PID file.

    Raises ServerError when it ends at once.
    """
    log = log_path(home, command.name)
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    marks = {"NOISY_STUDENT_HOME": str(home), "NOISY_STUDENT_SERVICE": command.name}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command.arguments,
            cwd=folder,
            env=environment | command.settings | marks,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    threading.Thread(target=process.wait, daemon=True).start()  # reaps it, should it end before we do
    started = start_time(process.pid)
    if started is None:
        raise ServerError(f"{command.name} ended at once; {log_tail(home, command.name)}")
    record = Record(pid=process.pid, started=started, since=time.time(), command=command)
    _write_whole(home / f"{command.name}.pid", json.dumps(asdict(record), indent=1))
    return record


def wait_healthy(record: Record, is_healthy: Callable[[Record], bool], limit_s: float) -> bool:
    """Wait until a process answers; False when it has not within the limit, or has ended."""
    deadline = time.monotonic() + limit_s
    while record.alive and time.monotonic() < deadline:
        if is_healthy(record):
            return True
        time.sleep(POLL_S)
    return False


def stop(home: Path, name: str, *, spare_children_of: Command | None = None) -> bool:
    """Stop a command and all that it started, gently, then by force; whether anything was running.

    With `spare_children_of`, processes that do not run this very command go on. Raises ServerError when one survives.
    """
    record, spared = read_record(home, name), spare_children_of

    def running() -> set[int]:
        found = {pid for pid in marked(home, name) if spared is None or command_line(pid) == spared.arguments}
        return found | ({record.pid} if record and record.alive else set())

    was_running = bool(running())
    for number, limit_s in ((signal.SIGTERM, TERMINATE_S), (signal.SIGKILL, KILL_S)):
        if _signal_until_gone(running, number, limit_s):
            break
    if survivors := running():
        raise ServerError(f"{name}: processes {sorted(survivors)} survive SIGKILL; see {log_path(home, name)}")
    (home / f"{name}.pid").unlink(missing_ok=True)
    return was_running


def _signal_until_gone(running: Callable[[], set[int]], number: int, limit_s: float) -> bool:
    signalled: set[tuple[int, str]] = set()
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        for pid in running():
            if (started := start_time(pid)) and (pid, started) not in signalled:
                signalled.add((pid, started))
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
        # one that is ending, or is within exec, shows no environment for a moment: hence by pid, and a second look
        if not any(start_time(pid) == started for pid, started in signalled) and not running():
            return True
        time.sleep(POLL_S)
    return False


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback interface."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def becomes_free(port: int, seconds: float = 5.0) -> bool:
    """Whether a server can listen on this port, now or soon: of a process that was killed it takes a moment."""
    deadline = time.monotonic() + seconds
    while not port_is_free(port):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def free_port() -> int:
    """A free port of loopback, below those that the system gives to outgoing connections in the meantime."""
    while not port_is_free(port := random.randint(20_000, 32_000)):
        pass
    return port


def listener(port: int) -> int | None:
    """The process that listens on a port, where Linux lets us see it."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:  # 0A: listening
                    inodes.add(f"socket:[{fields[9]}]")
    for descriptor in Path("/proc").glob("[0-9]*/fd/*") if inodes else []:
        with contextlib.suppress(OSError):
            if str(descriptor.readlink()) in inodes:
                return int(descriptor.parts[2])
    return None


def describe(pid: int) -> str:
    """A process for a reader: its number, its command, and the folder of ours it belongs to, if any."""
    home = process_environment(pid).get("NOISY_STUDENT_HOME")
    return f"process {pid} ({' '.join(command_line(pid))[:100]})" + (f" of {home}" if home else "")


@contextlib.contextmanager
def exclusive(path: Path, limit_s: float) -> Iterator[None]:
    """Hold a lock file; the kernel frees it when its holder dies. Raises ServerError when it stays taken."""
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + limit_s
    with path.open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ServerError(f"{path} was held for {limit_s:.0f} s: another start or stop hangs?") from None
                time.sleep(POLL_S)
        yield


def _write_whole(path: Path, text: str) -> None:
    beside = path.with_suffix(f".{os.getpid()}")
    beside.write_text(text)
    beside.replace(path)


def run_while_watched(arguments: list[str]) -> int:
    """Run a command until it ends or our standard input closes, as it does when our starter dies, however it dies."""
    process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL)

    def stop_when_alone() -> None:
        while os.read(0, 1):
            pass
        process.terminate()  # gently: a server still writes what it has queued
        try:
            process.wait(ALONE_S)
        except subprocess.TimeoutExpired:
            process.kill()

    threading.Thread(target=stop_when_alone, daemon=True).start()
    return process.wait()


if __name__ == "__main__":
    sys.exit(run_while_watched(sys.argv[1:]))
