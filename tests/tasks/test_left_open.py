"""Stages that MLflow has as going on, though their process was killed."""

from pathlib import Path

from tasks.left_open import left_open
from tasks.tracking import Tracker
from tests.tasks.tracked import free_port, opened, quick_and_quiet

__all__ = ["quick_and_quiet"]


def test_stages_that_were_not_ended_are_found(tmp_path: Path) -> None:
    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db")
    parent, other = opened(tracker), tracker.open_run("other", name="digits", params={})
    tracker.stage_run(parent, key="ended", name="fit teacher").close()
    tracker.stage_run(parent, key="failed", name="fit student 1").close("FAILED")
    for run_id, key in ((parent, "killed"), (other, "elsewhere")):
        tracker.stage_run(run_id, key=key, name="evaluate")
    assert left_open(tracker, parent) == {"failed", "killed"}


def test_without_mlflow_there_are_none() -> None:
    assert left_open(Tracker(f"http://127.0.0.1:{free_port()}"), "a run") == frozenset()
    assert left_open(Tracker("sqlite:///unused.db"), None) == frozenset()
