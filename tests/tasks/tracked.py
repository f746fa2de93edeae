"""What the tests of tracking share: an MLflow that is quick and quiet, and a run in it."""

import socket
from pathlib import Path
from typing import Any

import pytest

from tasks import mlflow_connection
from tasks.tracking import Tracker


@pytest.fixture(autouse=True)
def quick_and_quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(mlflow_connection, "FLUSH_SECONDS", 0.05)
    monkeypatch.setattr(mlflow_connection, "RETRY_SECONDS", 0.2)
    monkeypatch.setattr(mlflow_connection, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(mlflow_connection, "_WARNED", set())
    monkeypatch.setattr(mlflow_connection, "ASIDE_SECONDS", 0.0)
    monkeypatch.setattr(mlflow_connection, "_DOWN_SINCE", {})
    monkeypatch.setattr(mlflow_connection, "_IN_VAIN", {})
    monkeypatch.chdir(tmp_path)


def opened(tracker: Tracker, **changes: Any) -> str:
    run_id = tracker.open_run("abc", **{"name": "digits", "params": {}, **changes})
    assert run_id is not None
    return run_id


def history(tracker: Tracker, run_id: str | None, key: str) -> list[tuple[int, float]]:
    assert run_id is not None
    return [(metric.step, metric.value) for metric in tracker.client().get_metric_history(run_id, key)]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
