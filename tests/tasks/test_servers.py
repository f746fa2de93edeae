"""The local servers: what is started is found again, what is ours is stopped whole, what is not ours is left alone."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prefect.settings import Settings

from tasks import processes, servers, services
from tasks.processes import Command, ServerError, start_time

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
SLEEP_WITH_CHILD = [
    sys.executable,
    "-c",
    "import subprocess, sys, time\n"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
    "print('both run', flush=True)\n"
    "time.sleep(60)",
]


def start(home: Path, arguments: list[str]) -> processes.Record:
    command = Command(name="nap", arguments=arguments, settings={})
    return processes.start(home, command, folder=home, environment=dict(os.environ))


def start_with_child(home: Path) -> processes.Record:
    record = start(home, SLEEP_WITH_CHILD)
    wait_until(lambda: "both run" in processes.log_tail(home, "nap") and len(processes.marked(home, "nap")) == 2)
    return record


def wait_until(condition: Callable[[], bool], limit_s: float = 10.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_is_started_is_found_again_and_stopped(tmp_path: Path) -> None:
    record = start(tmp_path, SLEEP)
    assert processes.read_record(tmp_path, "nap") == record
    assert record.alive
    assert processes.stop(tmp_path, "nap")
    assert not record.alive
    assert not processes.stop(tmp_path, "nap")


@pytest.mark.parametrize("parent_is_killed", [False, True])
def test_children_in_sessions_of_their_own_are_stopped_too(tmp_path: Path, parent_is_killed: bool) -> None:
    record = start_with_child(tmp_path)
    if parent_is_killed:
        os.kill(record.pid, signal.SIGKILL)
        wait_until(lambda: not record.alive)
    assert processes.stop(tmp_path, "nap")
    assert not processes.marked(tmp_path, "nap")


def test_lasting_children_are_spared(tmp_path: Path) -> None:
    record = start_with_child(tmp_path)
    processes.stop(tmp_path, "nap", spare_children_of=record.command)
    assert len(processes.marked(tmp_path, "nap")) == 1
    processes.stop(tmp_path, "nap")


def test_process_that_ignores_terminate_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "TERMINATE_S", 0.2)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    record = start(tmp_path, [sys.executable, "-c", deaf])
    wait_until(lambda: processes.log_path(tmp_path, "nap").stat().st_size > 0)
    assert processes.stop(tmp_path, "nap")
    assert not record.alive


def test_reused_pid_is_left_alone(tmp_path: Path) -> None:
    start(tmp_path, SLEEP)
    processes.stop(tmp_path, "nap")
    with subprocess.Popen(SLEEP) as stranger:
        content = {
            "pid": stranger.pid,
            "started": "1",
            "since": 0.0,
            "command": vars(Command(name="nap", arguments=[], settings={})),
        }
        (tmp_path / "nap.pid").write_text(json.dumps(content))
        assert not processes.stop(tmp_path, "nap")
        assert start_time(stranger.pid)
        stranger.kill()


@pytest.mark.parametrize("text", ["", "garbage", "17", "[]", '{"pid": 1}', '{"command": null}'])
def test_pid_file_without_sense_hides_nothing(tmp_path: Path, text: str) -> None:
    record = start(tmp_path, SLEEP)
    wait_until(lambda: bool(processes.marked(tmp_path, "nap")))
    (tmp_path / "nap.pid").write_text(text)
    assert processes.read_record(tmp_path, "nap") is None
    assert processes.stop(tmp_path, "nap")
    assert not record.alive


def test_command_that_ends_shows_its_last_words(tmp_path: Path) -> None:
    record = start(tmp_path, [sys.executable, "-c", "import time; print('no such luck', flush=True); time.sleep(0.3)"])
    assert not processes.wait_healthy(record, lambda _: False, 10)
    assert "no such luck" in processes.log_tail(tmp_path, "nap")


def test_watched_command_ends_with_its_starter() -> None:
    wrapper = subprocess.Popen(
        [sys.executable, "-m", "tasks.processes", *SLEEP], stdin=subprocess.PIPE, cwd=services.SOURCE
    )
    children = Path(f"/proc/{wrapper.pid}/task/{wrapper.pid}/children")
    wait_until(lambda: bool(children.read_text()))
    child = int(children.read_text())
    assert wrapper.stdin is not None
    wrapper.stdin.close()
    wrapper.wait(10)
    assert start_time(child) is None


def test_lock_held_elsewhere_is_named(tmp_path: Path) -> None:
    held, wanted = processes.exclusive(tmp_path / "lock", 1), processes.exclusive(tmp_path / "lock", 0)
    with held, pytest.raises(ServerError, match="lock was held"), wanted:
        pass


def test_taken_port_names_its_owner_and_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("NOISY_STUDENT_PREFECT_PORT", str(port))
        with pytest.raises(ServerError) as error:
            servers.up(tmp_path)
    for words in (f"port {port} of prefect", f"process {os.getpid()}", "NOISY_STUDENT_PREFECT_PORT", "PREFECT_API_URL"):
        assert words in str(error.value)


@pytest.mark.parametrize("name", ["prefect", "mlflow"])
def test_damaged_database_is_named_with_the_remedy(home: Path, name: str) -> None:
    (home / f"{name}.db").write_bytes(b"half of a page")
    service = {"prefect": services.prefect_service, "mlflow": services.mlflow_service}[name](services.servers_at(home))
    with pytest.raises(ServerError) as error:
        servers._running(services.servers_at(home), service)
    assert str(error.value) == (
        f"{home}/{name}.db: cannot be read (file is not a database); move it and {name}.db-* away and try again: "
        f"{name} forgets its runs, finished stages are kept"
    )
    assert not processes.marked(home, name)


def test_who_comes_second_takes_what_the_first_has_started(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = Command(name="nap", arguments=SLEEP, settings={})
    service = services.Service(command=command, url=None, port=None, remedy="", is_healthy=lambda record: True)
    for name in ("prefect_service", "mlflow_service", "worker_service"):
        monkeypatch.setattr(servers, name, lambda _: service)
    together = [threading.Thread(target=servers.up, args=[home]) for _ in range(2)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    wait_until(lambda: len(processes.marked(home, "nap")) == 1)
    assert processes.stop(home, "nap")


@pytest.mark.parametrize("text", ["abc", "0", "65536", "-1", "4200.0"])
def test_port_out_of_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("NOISY_STUDENT_MLFLOW_PORT", text)
    with pytest.raises(ServerError, match="1 to 65535"):
        servers.up(tmp_path)


def test_foreign_settings_do_not_leak_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_API_KEY", "PREFECT_PROFILE", "MLFLOW_RUN_ID", "PREFECT_LOGGING_LEVEL"):
        monkeypatch.setenv(name, "foreign")
    environment = services.environment(services.servers_at(tmp_path))
    assert {name for name, value in environment.items() if value == "foreign"} == {"PREFECT_LOGGING_LEVEL"}


def test_settings_are_understood_by_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in services.PREFECT_SETTINGS.items():
        monkeypatch.setenv(name, value)
    understood = Settings().to_environment_variables(exclude_unset=True)
    assert set(services.PREFECT_SETTINGS) <= set(understood)
    recorder = Settings().server.services.task_run_recorder
    assert (recorder.batch_size, recorder.read_batch_size, recorder.flush_interval) == (200, 200, 1)


def test_home_is_the_checkouts_unless_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOISY_STUDENT_HOME", raising=False)
    assert services.home_folder() == services.SOURCE / ".noisy-student"
    monkeypatch.setenv("NOISY_STUDENT_HOME", str(tmp_path))
    assert services.home_folder() == tmp_path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose servers take free ports."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("NOISY_STUDENT_PREFECT_PORT", str(processes.free_port()))
    monkeypatch.setenv("NOISY_STUDENT_MLFLOW_PORT", str(processes.free_port()))
    return tmp_path


def test_real_servers_from_start_to_stop(home: Path) -> None:
    try:
        here = servers.up(home)
        before = {each.name: each for each in servers.status(home)}
        assert {each.state for each in before.values()} == {"running"}

        servers.deploy(home)
        deployment = services.fetch(f"{here.prefect_api_url}/deployments/name/noisy-student/iterate")
        assert deployment is not None
        assert str(services.SOURCE) not in json.dumps([deployment["pull_steps"], deployment["path"]])

        with servers.temporary_prefect_server(home) as url:
            assert url == here.prefect_api_url

        pid = before["prefect"].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: start_time(pid) is None)
        servers.up(home)
        after = {each.name: each for each in servers.status(home)}
        assert after["prefect"].pid != pid
        assert after["mlflow"] == before["mlflow"]

        (home / "mlflow.db").unlink()  # as by hand, of a demo that looked dead
        assert {each.name: each.state for each in servers.status(home)}["mlflow"] == "not answering"
        servers.up(home)
        assert (home / "mlflow.db").exists()
    finally:
        stopped = servers.down(home)
    assert stopped == ["worker", "mlflow", "prefect"]
    assert all(not processes.marked(home, name) for name in stopped)


def test_server_of_one_run_ends_with_it(home: Path) -> None:
    with servers.temporary_prefect_server(home) as url:
        assert services.fetch(f"{url}/health") is True
    assert services.fetch(f"{url}/health") is None
    assert (home / "prefect.db").exists()
