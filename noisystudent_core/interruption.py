"""Requests to stop, from outside: SIGTERM, which work that can save its state heeds, and the end of the parent."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event

PR_SET_PDEATHSIG = 1

_requested = Event()
_heeding = 0  # how many blocks would see a request


@contextmanager
def heeded() -> Iterator[Callable[[], bool]]:
    """While the block lasts a request is left to it; yields what tells whether one came."""
    global _heeding
    _heeding += 1
    try:
        yield _requested.is_set
    finally:
        _heeding -= 1
        _requested.clear()


def request() -> bool:
    """Ask the work in progress to stop soon; False where none would heed it."""
    if _heeding:
        _requested.set()
    return _heeding > 0


def listen() -> None:
    """Take a SIGTERM for a request; where none would heed it, it ends this process at once."""
    signal.signal(signal.SIGTERM, lambda number, frame: request() or os._exit(128 + number))


@contextmanager
def handler_kept() -> Iterator[None]:
    """Put this process's answer to a SIGTERM back at the end of the block: launchers leave their own.

    Only the main thread may set one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def die_with_parent() -> None:
    """Ask Linux for SIGKILL when the thread that started this process ends; elsewhere a closed pipe serves alone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
