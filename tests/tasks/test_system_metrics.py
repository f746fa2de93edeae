"""System metrics of a fit: samples of this machine in the very run of the stage, further ones after a retry."""

import time
from pathlib import Path

import pytest

from tasks import system_metrics
from tasks.system_metrics import PREFIX, SystemMetrics
from tasks.tracking import Tracker
from tests.tasks.tracked import history, opened, quick_and_quiet

__all__ = ["quick_and_quiet"]

CPU = "system/cpu_utilization_percentage"


def test_samples_go_to_the_stage_s_own_run_and_count_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_metrics, "EVERY_S", 0.2)
    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db")
    parent = opened(tracker)
    lengths = []
    for status in ("FAILED", "FINISHED"):
        with tracker.stage_run(parent, key="fit-0", name="fit teacher") as stage:
            with SystemMetrics(stage.log, stage.next_step(PREFIX)):
                end = time.process_time() + 0.3
                while time.process_time() < end:  # some use of the CPU to measure
                    pass
            stage.close(status)
        found = history(tracker, stage.run_id, CPU)
        lengths.append(len(found))
    assert 1 <= lengths[0] < lengths[1]
    assert [step for step, _ in found] == list(range(len(found)))
    assert any(value > 0 for _, value in found)
    keys = tracker.client().get_run(stage.run_id or "").data.metrics
    assert {f"{PREFIX}{name}" for name in ("system_memory_usage_percentage", "disk_usage_percentage")} <= set(keys)
    assert tracker.client().get_run(parent).data.metrics == {}
