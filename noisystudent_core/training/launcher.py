"""The processes of a fit on one machine, started by torch's elastic launcher, and what they say.

The process that starts them listens, and waits. Each has a line to it: the first one's events and result come that way,
and the first error of any. As soon as one ends in the middle, the lines to the others are cut, upon which they end,
even while they wait for a GPU. None outlives the process that started it.
"""

import os
import signal
import socket
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from noisystudent_core import interruption
from noisystudent_core.errors import InterruptedFitError, NoisyStudentError, WorkerDiedError, by_name
from noisystudent_core.events import Events, silent
from noisystudent_core.training.distributed import joined

STOP_S = 120  # that a fit has to save its state after a SIGTERM


def launch(work: Callable[..., Any], num_processes: int, events: Events, *arguments: Any) -> Any:
    """Call `work(*arguments, events, group)` in so many processes, and return what it returns in the first one.

    `work` is a function of a module, `arguments` can be pickled. Raises the first error of any process by its name, and
    `WorkerDiedError` for one that died. A SIGTERM meanwhile is passed on to all.
    """
    lines = _Lines(num_processes, events)
    listener = threading.Thread(target=lines.listen, daemon=True)
    listener.start()
    asked_to_stop = False
    try:
        with interruption.handler_kept():
            elastic_launch(_settings(num_processes), _take_part)(work, arguments, lines.theirs, events is not silent)
    except SignalException:
        asked_to_stop = True
    except ChildFailedError:
        pass  # the lines know more
    finally:
        lines.close()
        listener.join()
    if asked_to_stop and not lines.is_settled:
        signal.raise_signal(signal.SIGTERM)  # nobody heeded it: it is left to this process
    return lines.result()


class _Lines:
    """The lines to the processes of a fit: theirs, and ours, on which events come and in the end results or an error.

    Theirs are held here, too, until all have taken them.
    """

    def __init__(self, num_processes: int, events: Events) -> None:
        pairs = [get_context("spawn").Pipe() for _ in range(num_processes)]
        self.theirs = [theirs for _, theirs in pairs]
        self._open = {ours: rank for rank, (ours, _) in enumerate(pairs)}
        self._events, self._num_processes = events, num_processes
        self._num_started = 0
        self._results: dict[int, Any] = {}  # by rank
        self._errors: list[tuple[float, Exception]] = []  # with the time of each, in s

    @property
    def is_settled(self) -> bool:
        """Whether the fit came to its own end: finished, or saved to go on later."""
        return len(self._results) == self._num_processes or isinstance(self._first_error(), InterruptedFitError)

    def listen(self) -> None:
        """Hear what the processes say until all have ended; cut the lines to the others at the first error."""
        while self._open:
            self._hear_all(timeout_s=None)
            while self._errors and self._hear_all(timeout_s=0):
                pass  # an error may follow from another process's, which has said so or ended before
            if self._errors:
                self._cut()

    def close(self) -> None:
        """Let go of their ends, after which a line whose process has ended says so."""
        for line in self.theirs:
            line.close()

    def result(self) -> Any:
        """The first process's result; raises the first error."""
        if (error := self._first_error()) is not None:
            raise error
        return self._results[0]

    def _hear_all(self, timeout_s: float | None) -> bool:
        """Hear a word of each process that has one; whether any had."""
        ready = [line for line in wait(list(self._open), timeout_s) if isinstance(line, Connection)]
        for line in ready:
            self._hear(line)
        return bool(ready)

    def _hear(self, line: Connection) -> None:
        try:
            said, content = line.recv()
        except (EOFError, OSError):
            self._end(line)
            return
        match said:
            case "started":
                self._num_started += 1
                if self._num_started == self._num_processes:
                    self.close()
            case "event":
                self._pass_on(*content)
            case "result":
                self._results[self._open[line]] = content
            case "error":
                time_s, name, message = content
                self._errors.append((time_s, by_name(name, message)))
                del self._open[line]
                line.close()

    def _pass_on(self, event: str, fields: dict[str, Any]) -> None:
        try:
            self._events(event, **fields)
        except Exception as error:
            self._errors.append((time.monotonic(), error))

    def _end(self, line: Connection) -> None:
        """Note the end of a process, which is an error unless it had a result."""
        rank = self._open.pop(line)
        line.close()
        if rank not in self._results:
            error = WorkerDiedError(
                f"process {rank} of the {self._num_processes} of a fit was killed, for lack of memory as a rule; "
                "the others were ended: run it again to go on from the last state"
            )
            self._errors.append((time.monotonic(), error))

    def _first_error(self) -> Exception | None:
        """The first error, of the kind that explains most: that a process is gone shows in the others as anything."""
        return min(self._errors, key=lambda timed: (_precedence(timed[1]), timed[0]))[1] if self._errors else None

    def _cut(self) -> None:
        for line in self._open:
            line.close()
        self._open.clear()


def _precedence(error: Exception) -> int:
    """0 for errors that were raised on purpose, 1 for a process that was killed, 2 for others."""
    return 2 if not isinstance(error, NoisyStudentError) else 1 if isinstance(error, WorkerDiedError) else 0


def _settings(num_processes: int) -> LaunchConfig:
    """One machine, a free port of the loopback, no second try: a fit goes on from its state when it is run again."""
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        signals_to_handle="SIGTERM",
        shutdown_timeout=STOP_S,
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
    )


def _take_part(work: Callable[..., Any], arguments: Sequence[Any], lines: list[Connection], is_heard: bool) -> None:
    """What one of the processes does."""
    interruption.die_with_parent()
    interruption.listen()
    rank = int(os.environ["RANK"])
    line = lines[rank]
    for other in lines:
        if other is not line:
            other.close()
    threading.Thread(target=_end_with, args=(line,), daemon=True).start()
    line.send(("started", None))
    os.environ.setdefault("GLOO_SOCKET_IFNAME", _loopback())
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // len(lines)))
    try:
        with joined() as group:
            result = work(*arguments, _Reporter(line) if is_heard and rank == 0 else silent, group)
        line.send(("result", None if rank else result))
    except Exception as error:
        line.send(("error", (time.monotonic(), type(error).__name__, str(error))))
        traceback.print_exc()
        os._exit(1)  # taking leave of the others would wait for those that died


class _Reporter:
    """Sends events to the process that started this one, from whatever thread."""

    def __init__(self, line: Connection) -> None:
        self._line, self._lock = line, threading.Lock()

    def __call__(self, event: str, **fields: Any) -> None:
        with self._lock:
            self._line.send(("event", (event, fields)))


def _end_with(line: Connection) -> None:
    """End this process when its line is cut: nothing is ever said on it."""
    try:
        line.recv()
    except (EOFError, OSError):
        os._exit(1)


def _loopback() -> str:
    """The network interface that reaches this machine alone."""
    return next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
