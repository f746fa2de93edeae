"""Stages on a Ray cluster of this machine that asks for a token: the bytes of the local engine, whatever is killed."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private.authentication_test_utils import reset_auth_token_state

from noisystudent_core import stages
from noisystudent_core.config import ExecutionConfig, FitConfig, IngestConfig, PrepareConfig
from noisystudent_core.errors import ConfigurationError, InterruptedFitError, SourceError, WorkerDiedError
from noisystudent_core.recipes import configure
from noisystudent_core.storage.manifest import Artifact
from tasks import ray_cluster
from tasks.engines import opened
from tasks.ray_engine import RayEngine
from tests.stages.small import DISTRIBUTIONS, FIT, Small, stored

LABELLED = PrepareConfig(ingest=IngestConfig(num_classes=3))
START_S = 120  # of a cluster, on a machine that does much else
ALL_ENDED_S = 120  # far more than it takes, for a busy machine


@pytest.fixture
def open_engine(cluster: int) -> Iterator[Callable[..., RayEngine]]:
    """Engines of a test's own, closed after it, however it ends."""
    with ExitStack() as opened_ones:

        def open_one(**settings: Any) -> RayEngine:
            one = RayEngine(**settings)
            opened_ones.callback(one.close)
            return one

        yield open_one


def spread(steps: int, **execution: Any) -> FitConfig:
    train = FIT.train.model_copy(update={"steps": steps})
    return FIT.model_copy(update={"train": train, "execution": ExecutionConfig(num_processes=2, **execution)})


@pytest.fixture(scope="module")
def cluster() -> Iterator[int]:
    """A cluster of two CPUs, found by RAY_ADDRESS, whose token this process has; the id of the process that runs it."""
    folder = tempfile.mkdtemp(prefix="ray")  # short: a socket's path has a limit
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", "0123456789" * 4)
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
        patch.setenv("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        given = [
            "--num-cpus=2",
            "--num-gpus=0",
            f"--port={port}",
            f"--temp-dir={folder}",
            "--object-store-memory=80000000",
        ]
        less = ["--include-dashboard=false", "--include-log-monitor=false", "--disable-usage-stats", "--block"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", *given, *less]
        head = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert head.stdout is not None
        assert any("Ray runtime started" in line for line in head.stdout)
        threading.Thread(target=head.stdout.read, daemon=True).start()
        patch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        patch.setenv(ray_cluster.CPUS, "1")
        reset_auth_token_state()  # Ray read the environment when it was imported
        yield head.pid
        ray.shutdown()  # whatever a failed test left open: Ray ends a process whose cluster has been gone for a minute
        all_processes = descendants(head.pid)
        head.terminate()
        head.wait(START_S)
        wait_until(lambda: are_gone(all_processes), limit_s=ALL_ENDED_S)
    reset_auth_token_state()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def engine(cluster: int) -> Iterator[RayEngine]:
    shared = RayEngine()
    yield shared
    shared.close()


@pytest.fixture
def data(root: str, sources: dict[str, str]) -> dict[str, str]:
    return Small(root).prepare_all(sources)


@pytest.fixture
def fit_inputs(data: dict[str, str]) -> dict[str, str]:
    return {"labelled": data["labelled"], "validation": data["validation"]}


def descendants(pid: int) -> list[int]:
    try:
        files = list(Path(f"/proc/{pid}/task").glob("*/children"))
        children = [int(child) for file in files for child in file.read_text().split()]
    except OSError:
        return []
    return children + [below for child in children for below in descendants(child)]


def actors(cluster: int, name: str) -> list[int]:
    """Processes of the cluster that are actors of this class."""
    return [pid for pid in descendants(cluster) if command(pid).startswith(f"ray::{name}".encode())]


def command(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def are_gone(pids: list[int]) -> bool:
    return not any(command(pid) for pid in pids)  # a zombie has none


def wait_until(condition: Callable[[], bool], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def labels(root: str) -> dict[str, bytes]:
    """What is published: no notes of groups, nothing that a kill left half written."""
    names = {name: data for name, (_, data) in stored(root).items() if name.startswith("predictions/")}
    return {name: data for name, data in names.items() if "/receipts/" not in name and "/." not in name}


def test_a_stage_reports_and_fails_as_it_does_here(engine: RayEngine, root: str, sources: dict[str, str]) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    inputs = {"source": sources["labelled"]}
    assert engine.num_slots == 2
    assert engine.run("prepare", LABELLED, inputs, root, lambda event, **fields: told.append((event, fields))) is None
    assert told == [("progress", {"done": 1, "total": 1, "unit": "files"})]
    assert Artifact.open(next(Path(root).glob("images/*/manifest.json")).parent.as_posix()).manifest.num_rows == 12
    with pytest.raises(SourceError) as here:
        stages.prepare(LABELLED, {"source": "nowhere"}, root)
    with pytest.raises(SourceError) as there:
        engine.run("prepare", LABELLED, {"source": "nowhere"}, root)
    assert str(there.value) == str(here.value)


def test_two_actors_of_which_one_is_killed_label_as_one_process_does(
    engine: RayEngine,
    cluster: int,
    root: str,
    fit_inputs: dict[str, str],
    picture: Callable[..., bytes],
    write_source: Callable[..., str],
) -> None:
    source = write_source(f"{root}/sources/many.parquet", [picture(number, size_px=96) for number in range(300)])
    inputs = {"checkpoint": Small(root).teacher(fit_inputs), "images": Small(root).prepare(source, labelled=False)}
    shutil.copytree(root, alone := f"{root} alone")
    stages.predict(DISTRIBUTIONS, {name: url.replace(root, alone) for name, url in inputs.items()}, alone)
    finished: dict[str, tuple[int, bytes]] = {}

    def kill(event: str, **fields: Any) -> None:
        if event == "progress" and not finished:
            (doomed,) = set(actors(cluster, "RayWorker"))
            os.kill(doomed, signal.SIGSTOP)
            engine.run("predict_group", DISTRIBUTIONS, inputs, root, parts=[28, 29])  # by an actor of its own
            assert len(actors(cluster, "RayWorker")) == 2
            finished.update(stored(root))
            os.kill(doomed, signal.SIGKILL)

    with pytest.raises(WorkerDiedError, match="worker died, for lack of memory as a rule; Ray says: "):
        engine.run("predict_group", DISTRIBUTIONS, inputs, root, kill, parts=list(range(28)))
    assert 3 <= len(labels(root)) < 30
    engine.run("predict", DISTRIBUTIONS, inputs, root)
    after = stored(root)
    assert {name: after[name] for name in finished} == finished  # nothing was computed again
    assert labels(root) == labels(alone)


def test_a_fit_on_two_workers_is_the_one_of_two_processes(
    engine: RayEngine, root: str, fit_inputs: dict[str, str]
) -> None:
    told: list[str] = []
    engine.run("fit", spread(3), fit_inputs, root, lambda event, **fields: told.append(event))
    assert told.count("progress") == 3
    assert told.count("figure") == 2
    alone = stages.fit(spread(3), fit_inputs, f"{root} alone")
    assert Artifact.open(f"{root}/checkpoints/{alone.key}").manifest == alone
    assert not list(Path(root).glob("state/*"))


def test_a_fit_goes_on_after_one_of_its_workers_was_killed_and_after_it_was_asked_to_stop(
    engine: RayEngine,
    open_engine: Callable[..., RayEngine],
    cluster: int,
    root: str,
    fit_inputs: dict[str, str],
) -> None:
    for slot in engine._all:
        slot.stop()  # this run's engines need the CPUs
    wait_until(lambda: not actors(cluster, "Ray"), limit_s=ALL_ENDED_S)
    config = spread(250, state_every_steps=20)
    messages: list[str] = []

    def kill(event: str, **fields: Any) -> None:
        if event == "progress" and fields["done"] == 40:
            os.kill(actors(cluster, "RayTrainWorker")[-1], signal.SIGKILL)

    def close(event: str, **fields: Any) -> None:
        if event == "message":
            messages.append(fields["text"])
        if event == "progress" and not closing.is_alive():
            processes.extend(actors(cluster, "Ray"))
            closing.start()

    first, then = open_engine(), open_engine()
    closing, processes = threading.Thread(target=first.close), []
    with pytest.raises(WorkerDiedError, match=r"process [01] of the 2 of a fit died; the others were ended: "):
        first.run("fit", config, fit_inputs, root, kill)
    with pytest.raises(InterruptedFitError, match=r"asked to stop after step \d+, saved as "):
        first.run("fit", config, fit_inputs, root, close)
    closing.join(ALL_ENDED_S)
    assert not closing.is_alive()
    wait_until(lambda: are_gone(processes), limit_s=ALL_ENDED_S)
    assert len(processes) == 3  # the leader, and two that fit
    then.run("fit", config, fit_inputs, root, lambda event, **fields: messages.append(str(fields.get("text", ""))))
    assert [text.partition(" step")[0] for text in messages if text] == ["going on after"] * 2
    alone = stages.fit(config, fit_inputs, f"{root} alone")
    assert Artifact.open(f"{root}/checkpoints/{alone.key}").manifest.parts == alone.parts


def test_a_silent_worker_is_ended(open_engine: Callable[..., RayEngine], root: str) -> None:
    silent = open_engine(silence_s=0.1)  # less than a worker needs to start
    with pytest.raises(WorkerDiedError, match=r"said nothing for 0 s, the limit of NOISY_STUDENT_WORKER_SILENCE_S"):
        silent.run("prepare", LABELLED, {"source": "nowhere"}, root)


def test_more_processes_than_workers_are_refused(engine: RayEngine, root: str) -> None:
    many = FIT.model_copy(update={"execution": ExecutionConfig(num_processes=3)})
    with pytest.raises(ConfigurationError, match=r"num_processes=3: must be at most 2, the workers on this cluster's"):
        engine.run("fit", many, {}, root)


def test_what_the_machines_do_not_see_is_refused(engine: RayEngine, memory_root: str, sources: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"does not see the root memory://.*; give a bucket, with credentials"):
        engine.run("prepare", LABELLED, {"source": "nowhere"}, memory_root)


def test_sources_are_seen_from_every_machine(
    engine: RayEngine, root: str, write_source: Callable[..., str], picture: Callable[..., bytes]
) -> None:
    here = write_source("memory://here/labelled.parquet", [picture(0, 0)], [0])
    config = configure("digits", sources={"labelled": here})
    with pytest.raises(ConfigurationError, match=r"does not see the source memory://here/labelled\.parquet"):
        engine.run("check", config, {}, root)


def test_machines_without_this_package_are_named(cluster: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "MODULES", ("noisystudent_core", "not_there"))
    with pytest.raises(ConfigurationError, match=r"cannot run stages \(No module named 'not_there'\); install noisy-"):
        RayEngine()


@pytest.mark.parametrize("wanted", ["0", "3", "many"])
def test_a_worker_has_no_more_cpus_than_a_machine(cluster: int, monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    monkeypatch.setenv(ray_cluster.CPUS, wanted)
    with pytest.raises(ConfigurationError, match=f"NOISY_STUDENT_RAY_CPUS={wanted}: must be from 1 to 2"):
        RayEngine()


OPEN = "from tasks.engines import opened\nwith opened('ray', 'run'):\n    pass\n"


def refusal(**variables: str | None) -> str:
    """What a process of this environment says when it opens the engine."""
    given = {name: value for name, value in (os.environ | variables).items() if value is not None}
    done = subprocess.run([sys.executable, "-c", OPEN], env=given, capture_output=True, text=True, timeout=START_S)
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


def test_a_cluster_that_refuses_the_token_is_named(cluster: int) -> None:
    said = refusal(RAY_AUTH_TOKEN="9876543210" * 4)
    assert "ConfigurationError: engine 'ray': no cluster at 127.0.0.1:" in said and "RAY_AUTH_TOKEN" in said


def test_no_cluster_is_named() -> None:
    said = refusal(RAY_ADDRESS="127.0.0.1:9", RAY_AUTH_MODE="disabled")
    assert "ConfigurationError: engine 'ray': no cluster at 127.0.0.1:9 takes this run" in said
    assert said.endswith("start one: ray start --head")


def test_ray_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[2].startswith("ray_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(ConfigurationError, match=r"Ray is not installed; install noisy-student\[ray\]"),
        opened("ray", "r"),
    ):
        pass
