"""A lock per device between the processes of a machine: of two runs, one at a time has its worker work on a GPU.

The kernel frees a lock when its holder dies, however it dies.
"""

import fcntl
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from noisystudent_core.errors import NoisyStudentError

POLL_S = 0.2
SAY_AGAIN_S = 60.0
FOLDER_VARIABLE = "NOISY_STUDENT_LOCKS"


class DeviceLock:
    """The lock of one device. Whoever had it and wants it again lets those go first who wait."""

    def __init__(self, device: str) -> None:
        self.device = device
        name = re.sub(r"[^\w-]", "_", device)
        self._path, self._queue = _folder() / f"device-{name}", _folder() / f"device-{name}.queue"
        self._file = -1
        self._had_it = False

    @contextmanager
    def held(self, say: Callable[[str], None], given_up: Callable[[], bool]) -> Iterator[None]:
        """Hold the device while the block lasts; `say` is told now and then who is waited for.

        Raises `NoisyStudentError` when `given_up` tells that the run is over.
        """
        self._wait(say, given_up)
        try:
            yield
        finally:
            os.ftruncate(self._file, 0)
            os.close(self._file)  # frees the lock
            self._file = -1

    def is_held_elsewhere(self) -> bool:
        """Whether another process has its worker work on the device now."""
        file = _opened(self._path)
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return self._file < 0
        finally:
            os.close(file)
        return False

    def _wait(self, say: Callable[[str], None], given_up: Callable[[], bool]) -> None:
        if self._had_it and self._someone_waits():
            time.sleep(3 * POLL_S)
        queue = _opened(self._queue)
        try:
            fcntl.flock(queue, fcntl.LOCK_SH)
            said = -SAY_AGAIN_S
            while not self._taken():
                if given_up():
                    raise NoisyStudentError(f"device {self.device}: not waited for any longer, the run is over")
                if time.monotonic() - said >= SAY_AGAIN_S:
                    said = time.monotonic()
                    say(f"waiting for device {self.device}, held by {self._holder()}")
                time.sleep(POLL_S)
        finally:
            os.close(queue)

    def _taken(self) -> bool:
        file = _opened(self._path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        holder = {"pid": os.getpid(), "home": os.environ.get("NOISY_STUDENT_HOME", ""), "since": time.time()}
        os.ftruncate(file, 0)
        os.write(file, json.dumps(holder).encode())
        self._file, self._had_it = file, True
        return True

    def _holder(self) -> str:
        with suppress(OSError, ValueError):
            found = json.loads(self._path.read_text())
            of = f" of {found['home']}" if found["home"] else ""
            return f"process {found['pid']}{of} for {time.time() - found['since']:.0f} s"
        return "another process"

    def _someone_waits(self) -> bool:
        file = _opened(self._queue)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(file)
        return False


def _folder() -> Path:
    """NOISY_STUDENT_LOCKS, else a folder of the machine that every user may write to, as devices are the machine's."""
    named = os.environ.get(FOLDER_VARIABLE)
    folder = Path(named) if named else Path(tempfile.gettempdir()) / "noisy-student-locks"
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(PermissionError):  # another user was faster
            folder.chmod(0o1777)
    return folder


def _opened(path: Path) -> int:
    """A file that every user may lock; one of another user's is not created anew, which systems forbid."""
    with suppress(FileNotFoundError):
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    with suppress(PermissionError):
        os.fchmod(file, 0o666)
    return file
