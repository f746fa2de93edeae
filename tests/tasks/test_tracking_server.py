"""Tracking against a real MLflow server: what it keeps, and one that is stopped and resumed under a fit."""

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from noisystudent_core import stages
from tasks import mlflow_connection, running
from tasks.progress import Progress
from tasks.running import _listener
from tasks.services import Servers, mlflow_page
from tasks.tracking import StageRun, Tracker
from tests.stages.conftest import data, small
from tests.stages.small import FIT, Small
from tests.tasks.slow_proxy import proxy_of
from tests.tasks.tracked import free_port, history, opened, quick_and_quiet

__all__ = ["data", "quick_and_quiet", "small"]


def _wait_until_healthy(address: str, server: subprocess.Popen[bytes], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"no MLflow server at {address} within {seconds} s (exit code {server.poll()})")


class Server:
    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.uri = f"http://127.0.0.1:{port}"
        options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        stores = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/files"]
        command = [sys.executable, "-m", "mlflow", "server", *options, *stores]
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        environment = {**os.environ, **quiet}
        with (folder / "server.log").open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=folder, env=environment, start_new_session=True
            )

    def signal(self, number: signal.Signals) -> None:
        os.killpg(self.process.pid, number)  # the server and its workers: a session of their own


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("server"))
    try:
        _wait_until_healthy(started.uri, started.process)
        yield started
    finally:
        started.signal(signal.SIGCONT)
        started.signal(signal.SIGKILL)
        started.process.wait()


def test_stopped_server_never_holds_up_a_fit(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_connection, "CLOSE_SECONDS", 60.0)
    tracker = Tracker(server.uri)
    stage = tracker.stage_run(opened(tracker), key="fit-0", name="iteration 0 fit")
    with monkeypatch.context() as impatient:
        impatient.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        server.signal(signal.SIGSTOP)
        slowest = 0.0
        for step in range(2000):
            started = time.monotonic()
            stage.log({"train/loss_labelled": float(step)}, step)
            slowest = max(slowest, time.monotonic() - started)
        time.sleep(3)  # longer than the 1 s that a request may take
        server.signal(signal.SIGCONT)
    stage.close()
    assert slowest < 1
    assert "cannot send metrics" in caplog.text
    assert history(tracker, stage.run_id, "train/loss_labelled") == [(step, float(step)) for step in range(2000)]
    assert tracker.client().get_run(stage.run_id or "").info.status == "FINISHED"


@pytest.mark.parametrize("fault", ["slow", "down"])
def test_fit_goes_on_while_mlflow_is_slow_or_down_and_nothing_is_lost(
    server: Server, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_connection, "CLOSE_SECONDS", 60.0)
    with proxy_of(server.uri) as proxy:
        tracker = Tracker(proxy.uri)
        stage = tracker.stage_run(opened(tracker), key=f"fit-{fault}", name="fit teacher")
        with monkeypatch.context() as impatient:
            impatient.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
            proxy.delay_s, proxy.is_down = (3.0, False) if fault == "slow" else (0.0, True)  # 30 s to a limit of 10
            slowest = 0.0
            for step in range(500):
                started = time.monotonic()
                stage.log({"train/loss_labelled": float(step)}, step)
                if step % 100 == 0:
                    stage.log_image(f"figure-{step}", b"png")
                slowest = max(slowest, time.monotonic() - started)
            time.sleep(4)
        proxy.delay_s, proxy.is_down = 0.0, False
        stage.close()
        assert slowest < 0.5
        assert history(tracker, stage.run_id, "train/loss_labelled") == [(step, float(step)) for step in range(500)]
        figures = tracker.client().list_artifacts(stage.run_id or "", "figures")
        assert [file.path for file in figures] == [f"figures/figure-{step}.png" for step in range(0, 500, 100)]
        assert tracker.client().get_run(stage.run_id or "").info.status == "FINISHED"


class Unseen(Progress):
    """A bar of no run, however long its stage takes."""

    def listen(self, event: str, **fields: Any) -> None:
        pass


def fitted(small: Small, data: dict[str, str], stage: StageRun, **changes: Any) -> float:
    """Fit a teacher whose events go where a run's go; returns the seconds that it took."""
    inputs = {"labelled": data["labelled"], "validation": data["validation"]}
    train = FIT.train.model_copy(update={"steps": 20})
    started = time.monotonic()
    listen = _listener("fit teacher", Unseen("fit teacher"), stage)
    stages.fit(FIT.model_copy(update={"train": train, **changes}), inputs, small.root, listen)
    return time.monotonic() - started


def test_fit_takes_no_longer_beside_an_mlflow_that_answers_after_seconds(
    server: Server, small: Small, data: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_connection, "CLOSE_SECONDS", 60.0)
    monkeypatch.setattr(running, "show_image", lambda *shown: None)  # there is no Prefect
    with proxy_of(server.uri) as proxy:
        tracker = Tracker(proxy.uri)
        parent = opened(tracker)
        fitted(small, data, StageRun(tracker, None), seed=1)  # what is slow in a first fit alone
        untracked_s = fitted(small, data, StageRun(tracker, None), seed=2)
        stage = tracker.stage_run(parent, key="fit-slow-fit", name="fit teacher")
        proxy.delay_s = delay_s = 3.0  # the fit takes 1
        tracked_s = fitted(small, data, stage, seed=3)
        proxy.delay_s = 0.0
        stage.close()
        steps = {step for step, _ in history(tracker, stage.run_id, "train/loss_labelled")}
    assert tracked_s < untracked_s + delay_s  # it waited for no answer
    assert len(steps) == 20


def test_stage_that_begins_while_mlflow_starts_again_is_tracked(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_connection, "PATIENCE_SECONDS", 60.0)
    with proxy_of(server.uri) as proxy:
        tracker = Tracker(proxy.uri)
        parent = opened(tracker)
        proxy.is_down = True
        threading.Timer(1.0, setattr, (proxy, "is_down", False)).start()
        with tracker.stage_run(parent, key="fit-restart", name="fit teacher") as stage:
            stage.log({"train/loss_labelled": 0.5}, 0)
        proxy.is_down = True
        threading.Timer(1.0, setattr, (proxy, "is_down", False)).start()
        tracker.log_parent_metrics(parent, {"eval/top1": 93.0}, step=7)
        tracker.close_run(parent)
        assert history(tracker, stage.run_id, "train/loss_labelled") == [(0, 0.5)]
        assert (7, 93.0) in history(tracker, parent, "eval/top1")
        assert tracker.client().get_run(parent).info.status == "FINISHED"
    assert "Trying again for 60 s" in caplog.text


def test_mlflow_that_stays_away_is_waited_for_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_connection, "PATIENCE_SECONDS", 1.0)
    with proxy_of(server.uri) as proxy:
        tracker = Tracker(proxy.uri)
        parent = opened(tracker)
        proxy.is_down = True
        took = []
        for number in range(2):
            started = time.monotonic()
            assert tracker.stage_run(parent, key=f"fit-away-{number}", name="fit teacher").run_id is None
            took.append(time.monotonic() - started)
        assert took[0] >= 1.0 > took[1]


def test_nothing_waits_for_the_answers_of_an_mlflow_that_stays_away(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_connection, "ASIDE_SECONDS", 60.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with proxy_of(server.uri) as proxy:
        tracker = Tracker(proxy.uri)
        parent = opened(tracker)
        lasting = tracker.stage_run(parent, key="fit-lasting", name="fit teacher")
        proxy.delay_s = 5.0  # no request is answered in time
        took = []
        for number in range(3):
            started = time.monotonic()
            assert tracker.stage_run(parent, key=f"fit-aside-{number}", name=f"fit {number}").run_id is None
            took.append(time.monotonic() - started)
        proxy.delay_s = 0.0
        lasting.log({"train/loss_labelled": 0.5}, 0)
        lasting.close()  # it arrives: whoever comes next need not be left out
        assert tracker.stage_run(parent, key="fit-back", name="fit student").run_id is not None
    assert took[0] >= 1.0 > 10 * max(took[1:])
    assert "cannot open the run of stage 'fit 2', so this stage is not tracked: it does not answer" in caplog.text


def test_end_of_a_run_waits_for_what_its_stages_still_send(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_connection, "CLOSE_SECONDS", 0.1)
    with proxy_of(server.uri) as proxy:
        tracker = Tracker(proxy.uri)
        parent = opened(tracker)
        stage = tracker.stage_run(parent, key="fit-late", name="fit teacher")
        proxy.delay_s = 1.0
        stage.log({"train/loss_labelled": 0.5}, 0)
        stage.close()
        tracker.close_run(parent)
        proxy.delay_s = 0.0
        assert history(tracker, stage.run_id, "train/loss_labelled") == [(0, 0.5)]
        assert tracker.client().get_run(stage.run_id or "").info.status == "FINISHED"


def test_full_buffer_and_a_server_that_stays_away_are_counted(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_connection, "MAX_WAITING", 10)
    monkeypatch.setattr(mlflow_connection, "GIVE_UP_SECONDS", 0.1)
    tracker = Tracker(server.uri)
    stage = tracker.stage_run(opened(tracker), key="fit-lost", name="iteration 0 fit")
    with monkeypatch.context() as impatient:
        impatient.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        server.signal(signal.SIGSTOP)
        try:
            for step in range(30):
                stage.log({"loss": 0.0}, step)
            stage.log_image("noise-grid", b"png")
            stage.close()
        finally:
            server.signal(signal.SIGCONT)
    assert f"30 metric values of run {stage.run_id} are lost" in caplog.text
    assert f"1 files of run {stage.run_id} are lost" in caplog.text
    assert not tracker.stage_run(opened(tracker), key="fit-lost", name="iteration 0 fit").finished


def test_run_address_opens_in_the_ui(server: Server) -> None:
    tracker = Tracker(server.uri)
    run_id = opened(tracker)
    experiment_id = tracker.client().get_run(run_id).info.experiment_id
    page = f"{server.uri}/#/experiments/{experiment_id}/runs/{run_id}"
    assert tracker.run_url(run_id) == f"{page}?workflowType=machine_learning"


def test_page_of_all_runs_is_known_once_there_is_one(server: Server, tmp_path: Path) -> None:
    local = Servers(home=tmp_path, prefect_url="", mlflow_url=server.uri)
    run_id = opened(tracker := Tracker(server.uri))
    experiment_id = tracker.client().get_run(run_id).info.experiment_id
    runs = f"{server.uri}/#/experiments/{experiment_id}/runs"
    assert mlflow_page(local) == f"{runs}?compareRunsMode=CHART&workflowType=machine_learning"
    nobody = f"http://127.0.0.1:{free_port()}"
    assert mlflow_page(replace(local, mlflow_url=nobody)) == nobody


def test_server_keeps_tables(server: Server) -> None:
    tracker = Tracker(server.uri)
    run_id = opened(tracker)
    tracker.log_table(run_id, "thresholds", [{"threshold": 0.3, "kept": 0.8}])
    assert [file.path for file in tracker.client().list_artifacts(run_id, "tables")] == ["tables/thresholds.json"]


def test_image_has_an_address_that_a_browser_shows(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = Tracker(server.uri)
    with tracker.stage_run(opened(tracker), key="fit-figures", name="fit teacher") as stage:
        url = stage.log_image("noise-grid", b"\x89PNG")
        monkeypatch.setattr(mlflow_connection, "CLOSE_SECONDS", 60.0)
    assert url is not None
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert (answer.read(), answer.headers["Content-Type"]) == (b"\x89PNG", "image/png")
        assert answer.headers["Cross-Origin-Resource-Policy"] is None  # a page of Prefect's may show it
