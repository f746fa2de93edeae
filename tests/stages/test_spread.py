"""A fit that several processes carry out: in a worker, by torchrun, and refused where they could not."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from noisystudent_core import stages
from noisystudent_core.config import ExecutionConfig, FitConfig
from noisystudent_core.errors import ConfigurationError, InterruptedFitError, WorkerDiedError
from noisystudent_core.storage.manifest import Artifact
from tasks.engines import LocalEngine
from tests.data.processes import are_gone
from tests.stages.small import FIT, Small, Told

SIDE_PX = 96  # the pictures are noise, hardly compressed: their figures are many times a pipe's 2**16 bytes


def with_settings(config: FitConfig, num_processes: int | None = 2, **train: Any) -> FitConfig:
    execution = ExecutionConfig(num_processes=num_processes)
    return config.model_copy(update={"train": config.train.model_copy(update=train), "execution": execution})


LARGE = FIT.model_copy(update={"model": FIT.model.model_copy(update={"resolution_px": SIDE_PX})})


@pytest.fixture
def data(root: str, picture: Callable[..., bytes], write_source: Callable[..., str]) -> str:
    images = [picture(number, number % 3, size_px=SIDE_PX) for number in range(12)]
    source = write_source(f"{root}/sources/large.parquet", images, [number % 3 for number in range(12)])
    return Small(root).prepare(source, labelled=True)


@pytest.fixture
def inputs(data: str) -> dict[str, str]:
    return {"labelled": data, "validation": data}


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        shared = LocalEngine()
        yield shared
        shared.close()


class Listening(Told):
    """Listens to an engine; at a fit's first progress something is done to its worker."""

    def __init__(self, then: Callable[[int], object]) -> None:
        super().__init__([])
        self.then, self.ranks = then, []

    def __call__(self, event: str, **fields: Any) -> None:
        super().__call__(event, **fields)
        if event == "progress" and not self.ranks:
            (worker,) = [pid for pid in children(os.getpid()) if b"noisystudent_core.worker" in command(pid)]
            self.ranks = [pid for pid in children(worker) if b"spawn_main" in command(pid)]
            self.then(worker)

    def figures(self) -> dict[str, int]:
        return {fields["name"]: len(fields["png"]) for event, fields in self.events if event == "figure"}


def children(pid: int) -> list[int]:
    files = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for file in files for child in file.read_text().split()]


def command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_worker_asked_to_stop_has_its_processes_save_the_fit_which_goes_on_alone(
    engine: LocalEngine, root: str, inputs: dict[str, str]
) -> None:
    told = Listening(lambda worker: os.kill(worker, signal.SIGTERM))
    with pytest.raises(InterruptedFitError, match=r"asked to stop after step \d+, saved as .*safetensors; run it"):
        engine.run("fit", with_settings(LARGE, steps=60), inputs, root, told)
    assert len(told.ranks) == 2
    assert are_gone(told.ranks)
    assert told.figures().keys() == {"noise-grid", "training-batch"}  # once
    assert told.figures()["noise-grid"] > 4 * 2**16
    assert len(list(Path(root).glob("state/*/*.safetensors"))) == 1
    again = Told([])
    engine.run("fit", with_settings(LARGE, num_processes=1, steps=60), inputs, root, again)
    messages = [fields["text"] for event, fields in again.events if event == "message"]
    assert messages[0].startswith("going on after step")
    (manifest,) = Path(root).glob("checkpoints/*/manifest.json")
    assert Artifact.open(str(manifest.parent)).manifest.facts["num_steps"] == 60


def test_no_process_of_a_fit_survives_its_worker(engine: LocalEngine, root: str, inputs: dict[str, str]) -> None:
    told = Listening(lambda worker: os.kill(worker, signal.SIGKILL))
    with pytest.raises(WorkerDiedError, match="worker was ended by SIGKILL"):
        engine.run("fit", with_settings(LARGE, steps=100_000), inputs, root, told)
    assert len(told.ranks) == 2
    deadline = time.monotonic() + 5
    while not are_gone(told.ranks):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_fit_joins_the_processes_that_called_it(root: str, data: str) -> None:
    """Each calls the stage, the first one alone holds the lease, writes and reports."""
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    config = with_settings(LARGE, num_processes=None)
    arguments = ["-m", "tests.stages.by_hand", config.model_dump_json(), data, root]
    on_cpu = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    subprocess.run([*run, *arguments], env=on_cpu, check=True, timeout=120)
    first, second = (Path(root, f"said by {rank}").read_text().split("\n") for rank in (0, 1))
    *events, made, found = first
    assert made == found
    assert second == [made, made]
    assert events.count("progress") == 3
    assert not list(Path(root).glob("state/*"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 3}, "num_processes=2: must divide the 3 labelled and 0 unlabelled images of a step"),
        ({"batch_size": 1}, "num_processes=2: must divide the 1 labelled"),
        ({"micro_batches": 2}, "num_processes=2 times micro_batches=2: must divide the 6 labelled"),
        ({"sync_batch_norm": True, "num_processes": 1}, "sync_batch_norm=True on cpu: "),
    ],
)
def test_a_fit_that_its_processes_cannot_carry_out_is_refused_before_an_image_is_read(
    root: str, inputs: dict[str, str], settings: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for part in Path(root).glob("images/*/*.parquet"):
        part.unlink()
    with pytest.raises(ConfigurationError, match=message):
        stages.fit(with_settings(FIT, **settings), inputs, root)


def test_other_processes_would_not_see_a_root_in_memory(
    memory_root: str, write_sources: Callable[[str], dict[str, str]]
) -> None:
    labelled = Small(memory_root).prepare(write_sources(memory_root)["labelled"], labelled=True)
    with pytest.raises(ConfigurationError, match=r"num_processes=2 under memory://.* give one on disk or in a bucket"):
        stages.fit(with_settings(FIT), {"labelled": labelled, "validation": labelled}, memory_root)
