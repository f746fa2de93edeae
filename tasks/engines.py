"""Device slots, and the supervised worker process on each of them."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from threading import Condition, Thread
from typing import IO, Any, Generic, TypeVar

from noisystudent_core import errors
from noisystudent_core.config import FitConfig, NoisyStudentConfig, StageSettings
from noisystudent_core.errors import ConfigurationError, WorkerDiedError
from noisystudent_core.events import Events, silent
from noisystudent_core.storage.manifest import Inputs

SILENCE_S = float(os.environ.get("NOISY_STUDENT_WORKER_SILENCE_S", "1800"))  # a worker silent for longer is ended
STOP_S = 8.0  # that a fit has to save its state when its run ends before it
NO_GPU = ""  # in place of a GPU's name
LAST_LINES = 15  # of a dead worker's standard error, shown with its death

# OpenMP threads that wait by spinning lose most of their speed as soon as a core is shared with anything else
SHARING = {"OMP_WAIT_POLICY": "passive"}

Item = TypeVar("Item")

# The parent-death signal follows the thread that starts a child: this one lives as long as the process
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="worker-starter")


class LocalEngine:
    """This machine's devices: a slot per visible GPU, or one for the CPU, and a long-lived worker on each slot.

    A fit on several GPUs takes as many slots, and one worker that sees them all; the workers of the others end before.
    """

    def __init__(self, silence_s: float = SILENCE_S) -> None:
        self._closed = False
        self._all = [_Slot(gpu, silence_s) for gpu in _visible_gpus() or [NO_GPU]]
        self._slots = Slots(self._all)

    @property
    def num_slots(self) -> int:
        """How many stages can run at once."""
        return len(self._all)

    def run(
        self,
        call: str,
        config: StageSettings | NoisyStudentConfig,
        inputs: Inputs,
        root: str,
        events: Events = silent,
        **arguments: Any,
    ) -> Any:
        """Run a core call on the next free slot, or the next free ones, and return its JSON result.

        Raises the error the call raised, by name, or `WorkerDiedError` if the process died or fell silent.
        """
        request = {
            "call": call,
            "config": config.model_dump(mode="json"),
            "inputs": dict(inputs),
            "root": root,
            "arguments": arguments,
        }
        with self._slots.taken(self._num_slots_of(config)) as (slot, *others):
            if self._closed:
                raise errors.NoisyStudentError(f"{call}: not started, the run is over")
            for other in others:
                other.stop()
            return slot.serve(request, events, [slot.gpu, *(other.gpu for other in others)])

    def close(self) -> None:
        """End every worker, for good: what still waits for a slot is refused."""
        self._closed = True
        for slot in self._all:
            slot.stop()

    def _num_slots_of(self, config: StageSettings | NoisyStudentConfig) -> int:
        """One, but for a fit as many as it has processes; on a CPU these share the one slot there is."""
        if not isinstance(config, FitConfig) or self._all[0].gpu == NO_GPU:
            return 1
        return config.num_processes(len(self._all))


class Slots(Generic[Item]):
    """Free slots, in the order they are asked for: whoever needs several keeps those behind waiting, not they it.

    The first ones go first: their workers are started already.
    """

    def __init__(self, slots: Sequence[Item]) -> None:
        self._all, self._free = list(slots), list(slots)
        self._waiting, self._changed = deque[object](), Condition()

    @contextmanager
    def taken(self, number: int) -> Iterator[list[Item]]:
        """Hold so many slots while the block lasts: all at once, as soon as they are free."""
        turn = object()
        with self._changed:
            self._waiting.append(turn)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is turn and len(self._free) >= number)
                slots = [self._free.pop(0) for _ in range(number)]
            finally:
                self._waiting.remove(turn)
                self._changed.notify_all()
        try:
            yield slots
        finally:
            with self._changed:
                self._free = [slot for slot in self._all if slot in self._free or slot in slots]
                self._changed.notify_all()


class _Slot:
    """One device and the worker on it, started when first needed and again after a death."""

    def __init__(self, gpu: str, silence_s: float) -> None:
        self.gpu, self._silence_s = gpu, silence_s
        self._seen: Sequence[str] = ()  # GPUs, by the worker
        self._process: subprocess.Popen[str] | None = None
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._last_words: deque[str | None] = deque(maxlen=LAST_LINES)

    def serve(self, request: dict[str, Any], events: Events, gpus: Sequence[str]) -> Any:
        if self._seen != gpus:
            self.stop()
        if self._process is None or self._process.poll() is not None:
            self._seen = gpus
            self._process = _starter.submit(self._start).result()
        process = self._process
        assert process.stdin is not None
        try:
            with suppress(BrokenPipeError):  # the death shows as the end of the events
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
            return self._listen(process, events)
        except BaseException as error:
            if not isinstance(error, errors.NoisyStudentError) or isinstance(error, WorkerDiedError):
                self.stop()  # nobody would read the rest of this request's events
            raise

    def stop(self) -> None:
        """End the worker: a fit may save its state, other stages lose their unfinished parts only."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            process.kill()
            process.wait()

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "noisystudent_core.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=SHARING | os.environ | {"CUDA_VISIBLE_DEVICES": ",".join(self._seen)},
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which ends its workers
        )
        assert process.stdout is not None and process.stderr is not None
        self._lines, self._last_words = SimpleQueue(), deque(maxlen=LAST_LINES)
        Thread(target=_pass_on, args=(process.stdout, self._lines.put), daemon=True).start()
        Thread(target=_pass_on, args=(process.stderr, self._last_words.append), daemon=True).start()
        return process

    def _listen(self, process: subprocess.Popen[str], events: Events) -> Any:
        """Pass events on until the request's result or error."""
        while (line := self._next_line()) is not None:
            event = json.loads(line)
            match event.pop("event"):
                case "ready":
                    continue
                case "result":
                    return event["value"]
                case "error":
                    raise errors.by_name(event["type"], event["message"])
                case name:
                    events(name, **event)
        process.wait()
        raise WorkerDiedError(f"{_cause(process.returncode)}; its last words:\n{self._words()}")

    def _next_line(self) -> str | None:
        try:
            return self._lines.get(timeout=self._silence_s)
        except Empty:
            raise WorkerDiedError(
                f"worker said nothing for {self._silence_s:.0f} s, the limit of NOISY_STUDENT_WORKER_SILENCE_S, "
                f"and was ended; its last words:\n{self._words()}"
            ) from None

    def _words(self) -> str:
        return "".join(line for line in self._last_words if line) or "(none)"


def _pass_on(stream: IO[str], put: Callable[[str | None], None]) -> None:
    """Move lines from a pipe, and None at its end."""
    for line in stream:
        put(line)
    put(None)


def _cause(returncode: int) -> str:
    if returncode >= 0:
        return f"worker ended with exit status {returncode} in the middle of a stage"
    name = signal.Signals(-returncode).name
    hint = ": out of memory is the usual reason" if name == "SIGKILL" else ""
    return f"worker was ended by {name}{hint}"


def _visible_gpus() -> list[str]:
    """The NVIDIA GPUs that this process may use; else the driver is asked: this process does not import torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return visible.split(",") if visible else []
    if shutil.which("nvidia-smi") is None:
        return []
    asked = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()


ENGINES = {"local": LocalEngine}

_engines: dict[str, LocalEngine] = {}  # by the id of the run that opened it


def check_engine(name: str) -> None:
    """Raise `ConfigurationError` unless there is an engine of this name."""
    if name not in ENGINES:
        raise ConfigurationError(f"engine {name!r}: must be one of {', '.join(ENGINES)}")


@contextmanager
def opened(name: str, run_id: str) -> Iterator[LocalEngine]:
    """An engine for one run; its workers end with the block, and at the latest with this process."""
    check_engine(name)
    _engines[run_id] = ENGINES[name]()
    try:
        yield _engines[run_id]
    finally:
        _engines[run_id].close()


def engine_of(run_id: str) -> LocalEngine:
    """The engine opened for this run."""
    return _engines[run_id]
