"""A lease on a folder: of several runs that would do the same long work at once, one does it, the others wait.

It saves work and decides nothing: should two holders ever meet, both publish whole files if absent, and agree.
"""

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from noisystudent_core.storage.filesystem import Folder

SECONDS = 60.0  # that a lease lasts unless renewed
POLL_S = 2.0
RELEASED = "released"


@contextmanager
def leased(folder: Folder, say: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Hold the lease on `folder`, renewed while the block lasts; wait for whoever holds it, which `say` is told.

    A holder on this machine whose process is gone holds nothing; one elsewhere does until its last renewal expires.
    """
    mine = _Lease(folder / "lease")
    mine.acquire(say)
    stopped = Event()
    renewal = Thread(target=mine.renew_until, args=(stopped,), daemon=True)
    renewal.start()
    try:
        yield
    finally:
        stopped.set()
        renewal.join()
        mine.release()


def held_since(folder: Folder) -> float | None:
    """When the present holder of the lease on `folder` took it, in seconds since 1970; None where nobody holds it."""
    lease = _Lease(folder / "lease")
    newest, names = lease.newest()
    if not newest or lease.is_over(newest, names):
        return None
    try:
        return (folder / "lease").modified(str(newest))
    except FileNotFoundError:
        return None  # released meanwhile


class _Lease:
    """Files `<n>`, the n-th holder and until when at least; `<n>.<expires>`, its renewals in ms; `<n>.released`.

    The newest holder counts. Whoever finds it gone publishes the next one: as files are published if absent, one does.
    Numbers only grow, until the last holder deletes the folder with all that the work needed.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._owner = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex}"
        self._number, self._renewal = 0, ""

    def acquire(self, say: Callable[[str], None]) -> None:
        said = -SECONDS
        while not self._take():
            if time.monotonic() - said >= SECONDS:
                said = time.monotonic()
                say(f"waiting for another run that does the same work, {self._holder()}; its result is then reused")
            time.sleep(POLL_S)

    def renew_until(self, stopped: Event) -> None:
        while not stopped.wait(SECONDS / 4) and self._folder.exists(str(self._number)):
            before, self._renewal = self._renewal, f"{self._number}.{_expiry()}"
            self._folder.publish(self._renewal, b"")
            if before:
                self._folder.remove(before)

    def release(self) -> None:
        if self._folder.exists(str(self._number)):
            self._folder.publish(f"{self._number}.{RELEASED}", b"")

    def _take(self) -> bool:
        """Become the next holder, unless there is one, or another process is faster."""
        newest, names = self.newest()
        if newest and not self.is_over(newest, names):
            return False
        self._number = newest + 1
        if not self._folder.publish(str(self._number), f"{self._owner} {_expiry()}".encode()):
            return False
        if self.newest()[0] != self._number:  # what was seen was long past: others held it since
            self._folder.remove(str(self._number))
            return False
        for name in names:
            self._folder.remove(name)
        return True

    def _holder(self) -> str:
        """Who works, in words."""
        newest, _ = self.newest()
        try:
            host, pid, *_ = self._folder.read(str(newest)).decode().split()
        except FileNotFoundError:
            return "which is about to begin or end"
        return f"process {pid} on {host}"

    def newest(self) -> tuple[int, list[str]]:
        """The newest holder's number, 0 where there is none, and all files."""
        names = [name for name in self._folder.sizes() if not name.startswith(".")]  # those are on their way
        return max((int(name) for name in names if name.isdigit()), default=0), names

    def is_over(self, number: int, names: list[str]) -> bool:
        if f"{number}.{RELEASED}" in names:
            return True
        try:
            host, pid, _, expires = self._folder.read(str(number)).decode().split()
        except FileNotFoundError:
            return False  # what was listed is past: look again
        if host == socket.gethostname() and Path("/proc").exists() and not Path("/proc", pid).exists():
            return True
        renewals = [int(name.partition(".")[2]) for name in names if name.startswith(f"{number}.")]
        return max([int(expires), *renewals]) < time.time() * 1000


def _expiry() -> int:
    return int((time.time() + SECONDS) * 1000)
