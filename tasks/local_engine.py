"""This machine's devices, and a supervised worker process on each of them."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from typing import IO, Any

from noisystudent_core.config import FitConfig, NoisyStudentConfig, StageSettings
from noisystudent_core.errors import NoisyStudentError, WorkerDiedError
from noisystudent_core.events import Events
from tasks.device_lock import DeviceLock
from tasks.slots import SHARING, SILENCE_S, STOP_S, Engine, outcome

NO_GPU = ""  # in place of a GPU's name
WATCH_S = 1.0
LAST_LINES = 15  # of a dead worker's standard error, shown with its death

# The parent-death signal follows the thread that starts a child: this one lives as long as the process
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="worker-starter")


class LocalEngine(Engine["LocalSlot"]):
    """A slot per visible GPU, or one for the CPU. A fit on several GPUs has one worker that sees them all."""

    is_here = True

    def __init__(self, silence_s: float = SILENCE_S) -> None:
        self._over = Event()
        super().__init__([LocalSlot(gpu, silence_s, self._over) for gpu in _visible_gpus() or [NO_GPU]])

    def close(self) -> None:
        """As `Engine.close`; what waits for a device that another run holds is refused too."""
        self._over.set()
        super().close()

    def num_slots_of(self, config: StageSettings | NoisyStudentConfig) -> int:
        """One, but for a fit as many as it has processes; on a CPU these share the one slot there is."""
        if not isinstance(config, FitConfig) or self._all[0].gpu == NO_GPU:
            return 1
        return config.num_processes(len(self._all))


class LocalSlot:
    """One device and the worker process on it. A GPU is shared with other runs of the machine, stage by stage."""

    def __init__(self, gpu: str, silence_s: float, over: Event) -> None:
        self.gpu, self._silence_s, self._over = gpu, silence_s, over
        self.lock = DeviceLock(gpu) if gpu != NO_GPU else None  # of a CPU there is enough for several
        self._serving = Lock()
        self._watcher: Thread | None = None
        self._seen: Sequence[str] = ()  # GPUs, by the worker
        self._process: subprocess.Popen[str] | None = None
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._last_words: deque[str | None] = deque(maxlen=LAST_LINES)

    def serve(self, request: dict[str, Any], events: Events, others: "Sequence[LocalSlot]") -> Any:
        """As `Slot.serve`; the worker sees the GPUs of all these slots, which no other run's works on meanwhile."""
        slots = sorted((self, *others), key=lambda slot: slot.gpu)  # all take locks in one order: none waits in a ring

        def say(text: str) -> None:
            events("waiting", text=text)

        with ExitStack() as held, self._serving:
            for slot in slots:
                if slot.lock is not None:
                    held.enter_context(slot.lock.held(say, self._over.is_set))
            self._watch()
            return self._serve(request, events, [self.gpu, *(other.gpu for other in others)])

    def _serve(self, request: dict[str, Any], events: Events, gpus: list[str]) -> Any:
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
            return outcome(self._said(process), events)
        except BaseException as error:
            if not isinstance(error, NoisyStudentError) or isinstance(error, WorkerDiedError):
                self.stop()  # nobody would read the rest of this request's events
            raise

    def stop(self) -> None:
        """As `Slot.stop`."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            process.kill()
            process.wait()

    def _watch(self) -> None:
        """Have the worker end between two stages as soon as another run takes the device: it holds memory there."""
        if self.lock is not None and self._watcher is None:
            self._watcher = Thread(target=self._leave_to_others, daemon=True)
            self._watcher.start()

    def _leave_to_others(self) -> None:
        assert self.lock is not None
        while not self._over.wait(WATCH_S):
            if self._process is not None and self._serving.acquire(blocking=False):
                try:
                    if self.lock.is_held_elsewhere():
                        self.stop()
                finally:
                    self._serving.release()

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

    def _said(self, process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
        """What the worker says; its death and its silence are errors."""
        while (line := self._next_line()) is not None:
            yield json.loads(line)
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
