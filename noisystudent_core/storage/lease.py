"""A lease on a folder: of several runs that would do the same long work at once, one does it, the others wait.

It saves work and decides nothing: should two holders ever meet, both publish whole files if absent, and agree.
"""

import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from noisystudent_core.storage.filesystem import Folder

SECONDS = 60.0  # that a lease lasts unless renewed
POLL_S = 2.0


@contextmanager
def leased(folder: Folder) -> Iterator[None]:
    """Hold the lease on `folder`, renewed while the block lasts; wait for whoever holds it.

    A holder on this machine whose process is gone holds nothing; one elsewhere does until its last renewal expires.
    """
    mine = _Claim(folder)
    mine.acquire()
    stopped = Event()
    renewal = Thread(target=mine.renew_until, args=(stopped,), daemon=True)
    renewal.start()
    try:
        yield
    finally:
        stopped.set()
        renewal.join()
        mine.release()


class _Claim:
    """Files `<claimed>.<owner>.<expires>`, times in ms: the oldest claim that has not expired is the lease."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder / "lease"
        self._owner = f"{socket.gethostname().replace('.', '-')}.{os.getpid()}.{uuid.uuid4().hex}"
        self._claimed = 0
        self._name: str | None = None

    def acquire(self) -> None:
        while self._others():
            time.sleep(POLL_S)
        self._claimed = int(time.time() * 1000)
        self._write()
        while any(other < (self._claimed, self._owner) for other in self._others()):
            time.sleep(POLL_S)  # two claimed at once: the older one goes first
            self._write()

    def renew_until(self, stopped: Event) -> None:
        while not stopped.wait(SECONDS / 4):
            self._write()

    def release(self) -> None:
        if self._name is not None:
            self._folder.remove(self._name)

    def _write(self) -> None:
        """Put the claim down with a new end, and only then take the old one away."""
        before, self._name = self._name, f"{self._claimed}.{self._owner}.{int((time.time() + SECONDS) * 1000)}"
        self._folder.publish(self._name, b"")
        if before is not None:
            self._folder.remove(before)

    def _others(self) -> list[tuple[int, str]]:
        """Claims of others that still count; those that no longer do are cleared away."""
        found = []
        for name in self._folder.sizes():
            if name.startswith("."):
                continue  # on its way
            claimed, host, pid, unique, expires = name.split(".")
            if f"{host}.{pid}.{unique}" == self._owner:
                continue
            if int(expires) < time.time() * 1000 or _is_gone(host, pid):
                self._folder.remove(name)
            else:
                found.append((int(claimed), f"{host}.{pid}.{unique}"))
        return found


def _is_gone(host: str, pid: str) -> bool:
    """Whether the process was one of this machine's, and is no more."""
    here = socket.gethostname().replace(".", "-") == host
    return here and Path("/proc").exists() and not Path("/proc", pid).exists()
