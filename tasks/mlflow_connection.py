"""The connection to MLflow: a client per address, failures turned to warnings, metrics sent from a thread."""

import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit
from weakref import WeakSet

from noisystudent_core.errors import ConfigurationError
from noisystudent_core.storage.secrets import without_secrets

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

LOG = logging.getLogger(__name__)

# MLflow's defaults (120 s, 7 retries) would stall a stage for minutes; what the user has set wins.
MLFLOW_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
SERVED = ("http://", "https://")
EXPERIMENT = "noisy-student"
TRAINING = "workflowType=machine_learning"  # in the address of a page of MLflow's, which else shows its GenAI menus
UI_URL = "NOISY_STUDENT_MLFLOW_UI_URL"  # for links alone, as PREFECT_UI_URL is
FLUSH_SECONDS = 2.0
RETRY_SECONDS = 3.0
CLOSE_SECONDS = 10.0  # `close` waits so long for the last batch
GIVE_UP_SECONDS = 120.0  # and the sender goes on so long after it
PATIENCE_SECONDS = 60.0  # of one outage, that calls between stages wait: longer than a server takes to start again
ASIDE_SECONDS = 60.0  # calls between stages are left out, where one failed after that, before another looks again
LAST_REQUEST_SECONDS = 30.0  # that its last request may take
BATCH_SIZE = 500
MAX_WAITING = 50_000  # metric values, some 10 MB
MAX_FILES_WAITING = 32  # figures, of less than 1 MB each
# The server understood and said no (e.g. the run was deleted): sending again cannot help.
REFUSALS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST", "PERMISSION_DENIED", "UNAUTHENTICATED"}
UNUSABLE = (FileExistsError, NotADirectoryError, PermissionError)  # a folder of artifacts that cannot be written to

Status = Literal["FINISHED", "FAILED", "KILLED"]


class MetricSender(threading.Thread):
    """Bounded buffers of metrics and files, and the daemon thread that sends them; what is lost is counted and said."""

    def __init__(self, tracking_uri: str, run_id: str) -> None:
        super().__init__(name=f"metrics-{run_id[:8]}", daemon=True)
        self._tracking_uri, self._run_id = tracking_uri, run_id
        self._waiting: deque[Metric] = deque()
        self._files: deque[tuple[str, bytes]] = deque()  # path among the run's artifacts, content
        self._changed = threading.Condition()
        self._status: Status | None = None  # set when no more metrics will come
        self._give_up_at = math.inf
        self._num_lost = self._num_files_lost = 0
        _SENDERS.add(self)

    def put(self, metrics: Sequence["Metric"]) -> None:
        with self._changed:
            free = MAX_WAITING - len(self._waiting)
            self._waiting.extend(metrics[:free])
            self._num_lost += len(metrics[free:])
            self._changed.notify()

    def put_file(self, path: str, content: bytes) -> None:
        with self._changed:
            if len(self._files) == MAX_FILES_WAITING:
                LOG.warning("MLflow is slow: %s of run %s is lost", path, self._run_id)
                return
            self._files.append((path, content))
            self._changed.notify()

    def finish(self, status: Status) -> None:
        with self._changed:
            self._status, self._give_up_at = status, time.monotonic() + GIVE_UP_SECONDS
            self._changed.notify()
        self.join(CLOSE_SECONDS)
        if self.is_alive():
            LOG.warning(
                "MLflow is slow: %d metric values and %d files wait; trying %.0f s more",
                len(self._waiting),
                len(self._files),
                GIVE_UP_SECONDS,
            )

    def await_end(self) -> None:
        """Wait until all is sent or given up, where no more will come."""
        if self._status is not None and self.is_alive():
            self.join(max(0.0, self._give_up_at - time.monotonic()) + LAST_REQUEST_SECONDS)

    def run(self) -> None:
        done = False
        while not done:
            batch, file, status = self._next()
            error = self._send(batch, file, status)
            refused = getattr(error, "error_code", None) in REFUSALS or isinstance(error, UNUSABLE)
            gave_up = error is not None and time.monotonic() > self._give_up_at
            if error is None or refused or gave_up:
                self._drop(len(self._waiting) if gave_up else len(batch), lost=error is not None)
                num_files = len(self._files) if gave_up else int(not batch and file is not None)
                self._drop_files(num_files, lost=error is not None)
                done = gave_up or (status is not None and not batch and file is None)
            else:
                time.sleep(RETRY_SECONDS)
        if self._num_lost:
            LOG.warning("MLflow: %d metric values of run %s are lost", self._num_lost, self._run_id)
        if self._num_files_lost:
            LOG.warning("MLflow: %d files of run %s are lost", self._num_files_lost, self._run_id)

    def _next(self) -> "tuple[list[Metric], tuple[str, bytes] | None, Status | None]":
        with self._changed:
            self._changed.wait_for(
                lambda: self._status or self._files or len(self._waiting) >= BATCH_SIZE, FLUSH_SECONDS
            )
            return list(islice(self._waiting, BATCH_SIZE)), next(iter(self._files), None), self._status

    def _send(
        self, batch: Sequence["Metric"], file: tuple[str, bytes] | None, status: Status | None
    ) -> Exception | None:
        """Send metrics, else a file, else the end of the run."""
        action = "send metrics" if batch else f"log {file[0]}" if file else "close a run"
        with (guard := Guard(action, self._tracking_uri)):
            client = connect(self._tracking_uri)
            if batch:
                client.log_batch(self._run_id, metrics=batch)
            elif file is not None:
                _send_file(client, self._run_id, *file)
            elif status is not None:
                client.set_terminated(self._run_id, status)
            if batch or file is not None or status is not None:
                _answered(self._tracking_uri)
        return guard.error

    def _drop(self, num_metrics: int, *, lost: bool) -> None:
        with self._changed:
            for _ in range(num_metrics):
                self._waiting.popleft()
            self._num_lost += num_metrics if lost else 0

    def _drop_files(self, number: int, *, lost: bool) -> None:
        with self._changed:
            for _ in range(number):
                self._files.popleft()
            self._num_files_lost += number if lost else 0


def await_senders() -> None:
    """Wait for what stages that are over still send: it would be lost with this process, and nobody told."""
    for sender in list(_SENDERS):
        sender.await_end()


def _send_file(client: "MlflowClient", run_id: str, path: str, content: bytes) -> None:
    folder, _, name = path.rpartition("/")
    with TemporaryDirectory() as scratch:
        file = Path(scratch, name)
        file.write_bytes(content)
        client.log_artifact(run_id, str(file), folder or None)


class Guard:
    """Turns an exception into a warning. A `patient` one may ask for the block `again`: see `attempts`."""

    def __init__(self, action: str, tracking_uri: str, *, patient: bool = False) -> None:
        self.action, self.tracking_uri, self.again = action, tracking_uri, patient
        self.error: Exception | None = None

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            if error is None and self.again:
                _answered(self.tracking_uri)
            self.again = False
            return False
        self.error = error
        self.again = self.again and _is_worth_waiting(error, self.tracking_uri)
        if (warning := (self.action, self.tracking_uri, type(error).__name__, self.again)) not in _WARNED:
            _WARNED.add(warning)
            self._warn(error)
        return True

    def _warn(self, error: Exception) -> None:
        reason = f"{type(error).__name__}: {without_secrets(str(error)).strip()}"
        remedy = f"check that {without_secrets(self.tracking_uri)} answers, or set MLFLOW_TRACKING_URI"
        wait = f"Trying again for {PATIENCE_SECONDS:.0f} s" if self.again else "The work goes on"
        LOG.warning("MLflow: cannot %s (%s). %s; %s.", self.action, reason, wait, remedy)


def attempts(action: str, tracking_uri: str) -> Iterator[Guard]:
    """Guards for a block that may be repeated: one, and more of them while the server is only just gone.

    Of one outage `PATIENCE_SECONDS` are waited in all, whoever waits. Where MLflow stays away, nothing waits any more,
    not for the timeout of a request either: but for one call in `ASIDE_SECONDS` there is no guard at all.
    """
    now, asked = time.monotonic(), _IN_VAIN.get(tracking_uri, -math.inf)
    if now < asked + ASIDE_SECONDS and now > _DOWN_SINCE.get(tracking_uri, math.inf) + PATIENCE_SECONDS:
        if (warning := (action, tracking_uri, "left out", False)) not in _WARNED:
            _WARNED.add(warning)
            LOG.warning("MLflow: cannot %s: it does not answer. The work goes on.", action)
        return
    guard = Guard(action, tracking_uri, patient=True)
    yield guard
    while guard.again:
        time.sleep(RETRY_SECONDS)
        guard = Guard(action, tracking_uri, patient=True)
        yield guard


def _is_worth_waiting(error: Exception, tracking_uri: str) -> bool:
    """Whether a server did not answer, and has not been away for long."""
    from mlflow.exceptions import MlflowException

    refused = getattr(error, "error_code", None) in REFUSALS or isinstance(error, UNUSABLE)
    if refused or not isinstance(error, (OSError, MlflowException)) or not tracking_uri.startswith("http"):
        return False
    now = _IN_VAIN[tracking_uri] = time.monotonic()
    return now < _DOWN_SINCE.setdefault(tracking_uri, now) + PATIENCE_SECONDS


def _answered(tracking_uri: str) -> None:
    _DOWN_SINCE.pop(tracking_uri, None)
    _IN_VAIN.pop(tracking_uri, None)


_CLIENT_LOCK = threading.Lock()
_WARNED: set[tuple[str, str, str, bool]] = set()
_SENDERS: "WeakSet[MetricSender]" = WeakSet()
_DOWN_SINCE: dict[str, float] = {}  # by address, while it does not answer
_IN_VAIN: dict[str, float] = {}  # by address, when a call between stages failed last


def connect(tracking_uri: str) -> "MlflowClient":
    with _CLIENT_LOCK:  # two first calls at once would migrate a new database twice
        return _client(tracking_uri)


@cache
def _client(tracking_uri: str) -> "MlflowClient":
    for variable, value in MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    from mlflow import MlflowClient

    if (folder := sqlite_folder(tracking_uri)) is not None:
        folder.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri)


def ui_address(tracking_uri: str) -> str | None:
    """Where browsers find MLflow: NOISY_STUDENT_MLFLOW_UI_URL, else the tracking address; None for a database."""
    address = os.environ.get(UI_URL) or tracking_uri
    return without_secrets(address).rstrip("/") if address.startswith(SERVED) else None


def check_ui_address() -> None:
    """Raise `ConfigurationError` where NOISY_STUDENT_MLFLOW_UI_URL is no address that a browser can open."""
    address = os.environ.get(UI_URL)
    if address and not address.startswith(SERVED):
        raise ConfigurationError(
            f"{UI_URL}={address.rpartition('@')[2]!r}: must begin with http:// or https://; unset it for that of "
            "MLFLOW_TRACKING_URI"
        )


def sqlite_folder(tracking_uri: str) -> Path | None:
    path = urlsplit(tracking_uri).path.removeprefix("/")  # sqlite:////a/b.db is absolute, sqlite:///b.db relative
    return Path(path).resolve().parent if tracking_uri.startswith("sqlite:") and path else None
