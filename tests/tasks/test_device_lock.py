"""One run at a time on a device: between processes, freed by death, in turn, and said to whoever waits."""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noisystudent_core.errors import NoisyStudentError
from noisystudent_core.recipes import digits
from tasks import device_lock, local_engine
from tasks.device_lock import DeviceLock
from tasks.local_engine import LocalEngine
from tasks.progress import Progress

HOLD = """
import sys, time
from tasks.device_lock import DeviceLock
with DeviceLock("0").held(print, lambda: False):
    print("held", flush=True)
    sys.stdin.readline()
"""


def silent(text: str) -> None:
    return None


def never() -> bool:
    return False


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NOISY_STUDENT_LOCKS", str(tmp_path / "locks"))
    monkeypatch.setattr(device_lock, "POLL_S", 0.02)
    monkeypatch.setattr(local_engine, "WATCH_S", 0.05)
    return tmp_path / "locks"


def held_elsewhere() -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def wait_until(condition: Callable[[], Any], limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("killed", [False, True])
def test_another_process_is_waited_for_and_named(killed: bool) -> None:
    holder, said, got = held_elsewhere(), [], threading.Event()
    lock = DeviceLock("0")
    assert lock.is_held_elsewhere()

    def take() -> None:
        with lock.held(said.append, never):
            got.set()

    taking = threading.Thread(target=take)
    taking.start()
    wait_until(lambda: said)
    assert said[0].startswith(f"waiting for device 0, held by process {holder.pid}")
    assert not got.wait(0.2)
    holder.kill() if killed else holder.communicate("\n")
    assert got.wait(5)
    taking.join()
    holder.wait()
    assert not lock.is_held_elsewhere()


def test_other_devices_are_free() -> None:
    holder = held_elsewhere()
    with DeviceLock("1").held(silent, never):
        pass
    holder.kill()
    holder.wait()


def test_whoever_waits_goes_first() -> None:
    first, second, order = DeviceLock("0"), DeviceLock("0"), []
    waiting = threading.Event()

    def take() -> None:
        with second.held(lambda text: waiting.set(), never):
            order.append("second")

    with first.held(silent, never):
        taking = threading.Thread(target=take)
        taking.start()
        assert waiting.wait(5)
    with first.held(silent, never):
        order.append("first")
    taking.join()
    assert order == ["second", "first"]


def test_a_run_that_is_over_waits_no_longer() -> None:
    lock = DeviceLock("0")
    with (
        lock.held(silent, never),
        pytest.raises(NoisyStudentError, match="the run is over"),
        DeviceLock("0").held(silent, lambda: True),
    ):
        pass


def test_every_user_may_lock(locks: Path) -> None:
    with DeviceLock("GPU-0/1").held(silent, never):
        (lock,) = locks.glob("device-GPU-0_1")
        assert lock.stat().st_mode & 0o777 == 0o666
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert locks.stat().st_mode & 0o1777 == 0o1777


def test_no_lock_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [slot.lock for slot in LocalEngine()._all] == [None]


def test_two_runs_on_one_device_take_turns_and_leave_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # of a machine without one: the worker works on its CPU
    engine, said = LocalEngine(), []
    (slot,) = engine._all

    def listen(event: str, **fields: Any) -> None:
        said.append((event, fields.get("text", "")))

    try:
        engine.run("check", digits(), {}, "", listen)
        assert slot._process is not None  # kept for the next stage
        holder = held_elsewhere()
        wait_until(lambda: slot._process is None)  # its memory is the other run's now
        running = threading.Thread(target=engine.run, args=("check", digits(), {}, "", listen))
        running.start()
        wait_until(lambda: any(event == "waiting" and str(holder.pid) in text for event, text in said))
        holder.communicate("\n")
        running.join(60)
        assert not running.is_alive()
        assert slot._process is not None
    finally:
        engine.close()


def test_waiting_shows_in_the_ui(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[float, str]] = []
    monkeypatch.setattr("tasks.progress.get_run_logger", logging.getLogger)
    monkeypatch.setattr(Progress, "_show", lambda self, percent, text: shown.append((percent, text)))
    Progress("fit teacher").listen("waiting", text="waiting for device 0, held by process 7")
    assert shown == [(0.0, "fit teacher: waiting for device 0, held by process 7")]
