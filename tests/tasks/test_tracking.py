"""Tracking against a real SQLite-backed MLflow, and against an address where no server is."""

import json
import logging
import pickle
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from noisystudent_core.errors import ConfigurationError
from tasks import mlflow_connection, tracking
from tasks.tracking import TrackedData, Tracker, default_tracking_uri
from tests.tasks.tracked import free_port, history, opened, quick_and_quiet

__all__ = ["quick_and_quiet"]


@pytest.fixture(scope="module")
def sqlite_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def tracker(sqlite_uri: str, request: pytest.FixtureRequest) -> Tracker:
    return Tracker(sqlite_uri, experiment=request.node.name)  # one database (2 s to create), an experiment per test


def _params(tracker: Tracker, run_id: str) -> Mapping[str, str]:
    return tracker.client().get_run(run_id).data.params


def test_rerun_attaches_to_the_run_of_the_same_digest(tracker: Tracker) -> None:
    first = opened(tracker, flow_run_id="flow-1", tags={"recipe": "digits"}, flow_run_url="http://prefect/1")
    tracker.close_run(first, "FAILED")
    assert opened(tracker, flow_run_id="flow-2") == first
    assert opened(tracker, flow_run_id="flow-2") == first
    run = tracker.client().get_run(first)
    assert run.info.status == "RUNNING"
    assert run.data.tags["prefect.flow_run_ids"] == "flow-1,flow-2"
    assert run.data.tags["prefect.flow_run_url"] == "http://prefect/1"
    assert run.data.tags["recipe"] == "digits"
    assert tracker.open_run("other", name="digits", params={}) != first


def test_artifacts_lie_beside_the_database(tracker: Tracker, sqlite_uri: str, tmp_path: Path) -> None:
    run = tracker.client().get_run(opened(tracker))
    folder = Path(sqlite_uri.removeprefix("sqlite:///")).parent / "mlflow-artifacts"
    assert str(run.info.artifact_uri).startswith(folder.as_uri())
    assert not (tmp_path / "mlruns").exists()


def test_two_runs_created_at_once_end_as_one(tracker: Tracker) -> None:
    tracker.client()
    together = threading.Barrier(4)
    run_ids: list[str] = []

    def open_one() -> None:
        together.wait()
        run_ids.append(opened(tracker))

    threads = [threading.Thread(target=open_one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(run_ids) == 4
    winner = opened(tracker)
    assert opened(tracker) == winner
    assert winner in run_ids


def test_params_are_flat_short_and_logged_once(tracker: Tracker) -> None:
    steps = [{"train": {"epochs": epoch}} for epoch in range(150)]  # more than the 100 of one request
    run_id = opened(tracker, params={"iterations": steps, "note": "x" * 7000, "sizes": [1, 2], "odd?key": None})
    params = _params(tracker, run_id)
    assert len(params) == 153
    assert params["iterations.149.train.epochs"] == "149"
    assert len(params["note"]) == 6000
    assert params["note"].endswith("... (7000 characters)")
    assert params["sizes"] == "[1, 2]"
    assert params["odd_key"] == "None"
    assert opened(tracker, params={"sizes": [3], "late": 1}) == run_id
    assert {"sizes": "[1, 2]", "late": "1"}.items() <= _params(tracker, run_id).items()


def test_data_sets_are_logged_once_and_without_secrets(tracker: Tracker) -> None:
    source = "s3://key:secret@bucket/digits?token=secret"
    data = TrackedData(role="labelled", name="digits", digest="d" * 64, source=source, num_rows=100)
    run_id = opened(tracker)
    tracker.log_inputs(run_id, [data])
    tracker.log_inputs(run_id, [data])
    run = tracker.client().get_run(run_id)
    assert run.inputs is not None
    (logged,) = run.inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == ("digits", "d" * 36)
    assert json.loads(logged.dataset.source) == {"uri": "s3://bucket/digits"}
    assert json.loads(logged.dataset.profile or "") == {"num_rows": 100}
    assert logged.tags[0].value == "labelled"


def test_retried_stage_logs_only_later_steps(tracker: Tracker) -> None:
    parent = opened(tracker)
    with tracker.stage_run(parent, key="fit-1", name="iteration 1 fit", iteration=1, params={"lr": 0.1}) as stage:
        for step in range(3):
            stage.log({"train/loss_labelled": 1.0 / (step + 1)}, step)
        stage.close("FAILED")
    with tracker.stage_run(parent, key="fit-1", name="iteration 1 fit", iteration=1) as retried:
        assert (retried.run_id, retried.finished) == (stage.run_id, False)
        for step in range(1, 5):
            retried.log({"train/loss_labelled": 9.0, "train/loss_unlabelled": 2.0}, step)
    found = history(tracker, stage.run_id, "train/loss_labelled")
    assert found == [(0, 1.0), (1, 0.5), (2, pytest.approx(1 / 3)), (3, 9.0), (4, 9.0)]
    assert [step for step, _ in history(tracker, stage.run_id, "train/loss_unlabelled")] == [1, 2, 3, 4]
    run = tracker.client().get_run(stage.run_id or "")
    assert run.data.params == {"iteration": "1", "lr": "0.1"}
    assert {"mlflow.parentRunId": parent, "noisy_student.stage": "fit-1", "noisy_student.iteration": "1"}.items() <= (
        run.data.tags.items()
    )


def test_reused_stage_logs_nothing_twice(tracker: Tracker) -> None:
    parent = opened(tracker)
    with tracker.stage_run(parent, key="evaluate-0", name="iteration 0 evaluate") as stage:
        stage.log({"eval/top1": 0.9}, 0)
    before = tracker.client().get_run(stage.run_id or "").info
    with tracker.stage_run(parent, key="evaluate-0", name="iteration 0 evaluate") as reused:
        assert reused.finished
        reused.log({"eval/top1": 0.8}, 1)
        assert reused.log_image("noise-grid", b"png") is None
    assert tracker.client().list_artifacts(stage.run_id or "") == []
    after = tracker.client().get_run(stage.run_id or "").info
    assert history(tracker, stage.run_id, "eval/top1") == [(0, 0.9)]
    assert (after.status, after.end_time) == ("FINISHED", before.end_time)


def test_failed_stage_ends_as_failed(tracker: Tracker) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        tracker.stage_run(opened(tracker), key="fit-0", name="iteration 0 fit") as stage,
    ):
        stage.log({"loss": 1 / 0}, 0)
    assert tracker.client().get_run(stage.run_id or "").info.status == "FAILED"


def test_parent_shows_the_climb_once(tracker: Tracker) -> None:
    parent = opened(tracker)
    for _ in range(2):  # a run and its rerun
        for step, top1 in ((1, 0.93), (0, 0.92), (2, 0.95)):
            tracker.log_parent_metrics(parent, {"eval/top1": top1}, step=step)
    assert sorted(history(tracker, parent, "eval/top1")) == [(0, 0.92), (1, 0.93), (2, 0.95)]


def test_tables_texts_and_images_are_replaced_not_appended(tracker: Tracker) -> None:
    parent = opened(tracker)
    stage = tracker.stage_run(parent, key="fit-0", name="fit teacher")
    for png in (b"first", b"second"):
        tracker.log_table(parent, "iterations", [{"iteration": 0, "top1": 0.9}, {"iteration": 1, "gain": 2.5}])
        tracker.log_text(parent, "report.md", "# Report")
        assert stage.log_image("training-batch", png) is None  # a database has no address for it
    stage.close()
    client = tracker.client()
    table = json.loads(Path(client.download_artifacts(parent, "tables/iterations.json")).read_text())
    assert table == {"columns": ["iteration", "top1", "gain"], "data": [[0, 0.9, None], [1, None, 2.5]]}
    assert json.loads(client.get_run(parent).data.tags["mlflow.loggedArtifacts"]) == [
        {"path": "tables/iterations.json", "type": "table"}
    ]
    assert Path(client.download_artifacts(parent, "report.md")).read_text() == "# Report"
    assert [file.path for file in client.list_artifacts(stage.run_id or "", "figures")] == [
        "figures/training-batch.png"
    ]
    assert Path(client.download_artifacts(stage.run_id or "", "figures/training-batch.png")).read_bytes() == b"second"


def test_unreachable_server_turns_tracking_off_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    tracker = Tracker(f"http://name:secret@127.0.0.1:{free_port()}")
    with caplog.at_level(logging.WARNING, mlflow_connection.LOG.name):
        assert tracker.open_run("abc", name="digits", params={}) is None
        assert tracker.open_run("abc", name="digits", params={}) is None
    (warning,) = [record.getMessage() for record in caplog.records if record.name == mlflow_connection.LOG.name]
    assert "nothing of it is tracked" in warning
    assert "set MLFLOW_TRACKING_URI" in warning
    assert "secret" not in warning
    with tracker.stage_run(None, key="fit-0", name="iteration 0 fit") as stage:
        stage.log({"loss": 1.0}, 0)
        assert stage.log_image("noise-grid", b"png") is None
    tracker.log_table(None, "iterations", [])
    assert (stage.run_id, tracker.run_url(None)) == (None, None)


def test_metric_that_is_no_number_does_not_stop_a_fit(tracker: Tracker, caplog: pytest.LogCaptureFixture) -> None:
    with tracker.stage_run(opened(tracker), key="fit-0", name="iteration 0 fit") as stage:
        stage.log({"loss": "high"}, 0)  # type: ignore[dict-item]
        stage.log({"loss": float("nan"), "accuracy (%)": 0.5}, 1)
    assert "could not convert string to float" in caplog.text
    assert history(tracker, stage.run_id, "accuracy ___") == [(1, 0.5)]


def test_deleted_run_loses_its_metrics_with_a_warning(tracker: Tracker, caplog: pytest.LogCaptureFixture) -> None:
    stage = tracker.stage_run(opened(tracker), key="fit-0", name="iteration 0 fit")
    tracker.client().delete_run(stage.run_id or "")
    stage.log({"loss": 1.0, "top1": 0.1}, 0)
    stage.close()
    assert f"2 metric values of run {stage.run_id} are lost" in caplog.text


def test_image_that_mlflow_does_not_take_is_a_warning(tracker: Tracker, caplog: pytest.LogCaptureFixture) -> None:
    with tracker.stage_run(opened(tracker), key="fit-0", name="fit teacher") as stage:
        folder = Path(str(tracker.client().get_run(stage.run_id or "").info.artifact_uri).removeprefix("file://"))
        folder.mkdir(parents=True)
        (folder / "figures").write_bytes(b"a file where a folder is needed")
        assert stage.log_image("noise-grid", b"png") is None
        stage.log({"loss": 1.0}, 0)
    assert "cannot log figures/noise-grid.png" in caplog.text
    assert history(tracker, stage.run_id, "loss") == [(0, 1.0)]


def test_tracker_travels_as_two_strings(tracker: Tracker) -> None:
    assert pickle.loads(pickle.dumps(tracker)) == tracker
    assert tracker.run_url(opened(tracker)) is None


def test_default_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert default_tracking_uri(tmp_path / "home") == f"sqlite:///{tmp_path}/home/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert default_tracking_uri(tmp_path) == "http://mlflow:5000"


def test_links_have_the_address_that_browsers_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = Tracker("http://mlflow:5000")
    assert inside.ui_url("models/a") == "http://mlflow:5000/#/models/a?workflowType=machine_learning"
    assert (
        Tracker("https://me:hush@mlflow:5000/").ui_url("models/a")
        == "https://mlflow:5000/#/models/a?workflowType=machine_learning"
    )
    monkeypatch.setenv("NOISY_STUDENT_MLFLOW_UI_URL", "https://me:hush@mlflow.example.org/")
    assert inside.ui_url("models/a") == "https://mlflow.example.org/#/models/a?workflowType=machine_learning"
    picture = "https://mlflow.example.org/get-artifact?path=figures/grid.png&run_uuid=12"
    assert inside.figure_url("12", "grid") == picture
    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db")  # the server behind that address reads this database
    run_id = opened(tracker)
    experiment = tracker.client().get_run(run_id).info.experiment_id
    page = f"https://mlflow.example.org/#/experiments/{experiment}/runs/{run_id}?workflowType=machine_learning"
    assert tracker.run_url(run_id) == page
    monkeypatch.setenv("NOISY_STUDENT_MLFLOW_UI_URL", "me:hush@mlflow.example.org")
    with pytest.raises(ConfigurationError, match="must begin with http:// or https://; unset it") as error:
        mlflow_connection.check_ui_address()
    assert "hush" not in str(error.value)


def test_importing_tracking_imports_neither_mlflow_nor_torch() -> None:
    check = "import sys, tasks.tracking, tasks.model_registry; print({'mlflow', 'torch', 'timm'} & set(sys.modules))"
    root = Path(tracking.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "set()"
