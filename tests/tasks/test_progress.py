"""Names of artifacts, as Prefect takes them; speed and time left. What the artifacts show: flows/test_noisy_student."""

import logging

import pytest
from prefect.client.schemas.actions import ArtifactCreate

from tasks import progress
from tasks.progress import Progress, artifact_key


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("iterations", "iterations"),
        ("label by teacher 1", "label-by-teacher-1"),
        ("evaluate student 2 on validation", "evaluate-student-2-on-validation"),
        ("Fit: (B0), 50%", "fit-b0-50"),
    ],
)
def test_key_is_one_that_prefect_takes(name: str, key: str) -> None:
    assert artifact_key(name) == key
    assert ArtifactCreate(key=key).key == key


def test_prefect_refuses_what_is_replaced() -> None:
    with pytest.raises(ValueError, match="key"):
        ArtifactCreate(key="label by teacher 1")


def test_the_wait_for_a_slot_does_not_count(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    clock = {"now": 0.0}
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock["now"])
    monkeypatch.setattr(progress, "get_run_logger", lambda: logging.getLogger("a run"))
    monkeypatch.setattr(progress, "create_progress_artifact", lambda *_, **__: "an artifact")
    monkeypatch.setattr(progress, "update_progress_artifact", lambda *_, **__: None)
    bar = Progress("label")
    with caplog.at_level(logging.INFO):
        for now, done in ((300.0, 100), (301.0, 200), (310.0, 1100), (311.0, 1200), (400.0, 0), (410.0, 500)):
            clock["now"] = now
            bar.listen("progress", done=done, total=2100, unit="images")
    assert caplog.messages == [
        "label: 1,100 of 2,100 images, 100 a second, 0:00:10 left",
        "label: 500 of 2,100 images, 50 a second, 0:00:32 left",  # another try, from the start
    ]
