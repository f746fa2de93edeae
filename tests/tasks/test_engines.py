"""Workers under supervision: real processes that give results, raise, die, fall silent, and never outlive their run."""

import base64
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from noisystudent_core import stages
from noisystudent_core.config import ExecutionConfig, IngestConfig, InputNoise, PredictConfig, PrepareConfig
from noisystudent_core.errors import ConfigurationError, NoisyStudentError, SourceError, WorkerDiedError
from noisystudent_core.storage.manifest import Artifact, artifact_url, input_digests
from tasks import engines
from tasks.engines import LocalEngine, check_engine, engine_of, opened
from tasks.local_engine import NO_GPU
from tasks.processes import start_time
from tasks.slots import Slots
from tests.stages.small import FIT, Small

LABELLED = PrepareConfig(ingest=IngestConfig(num_classes=3))
LONG = FIT.model_copy(
    update={"train": FIT.train.model_copy(update={"steps": 100_000}), "noise": InputNoise(crop="translate")}
)


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    shared = LocalEngine()
    yield shared
    shared.close()


@pytest.fixture
def fit_inputs(root: str, sources: dict[str, str]) -> dict[str, str]:
    small = Small(root)
    return {split: small.prepare(sources[split], labelled=True) for split in ("labelled", "validation")}


def workers_of(pid: int) -> list[int]:
    """Children of a process."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(entry.name))
    return found


def worker() -> int:
    """The one worker of this process."""
    (pid,) = [pid for pid in workers_of(os.getpid()) if b"noisystudent_core.worker" in _command(pid)]
    return pid


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def wait_until(condition: Callable[[], bool], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_stage_s_result_is_its_artifact(engine: LocalEngine, root: str, sources: dict[str, str]) -> None:
    inputs, told = {"source": sources["labelled"]}, []

    def listen(event: str, **fields: Any) -> None:
        told.append((event, fields))

    assert engine.run("prepare", LABELLED, inputs, root, listen) is None
    assert told == [("progress", {"done": 1, "total": 1, "unit": "files"})]
    url = artifact_url(LABELLED, input_digests(inputs), root)
    assert Artifact.open(url).manifest.num_rows == 12


def test_figures_of_a_fit_come_through_the_pipe_whole(
    engine: LocalEngine, root: str, picture: Callable[..., bytes], write_source: Callable[..., str]
) -> None:
    images = [picture(number, number % 3, size_px=96) for number in range(12)]  # noise: hardly compressed
    source = write_source(f"{root}/sources/large.parquet", images, [number % 3 for number in range(12)])
    prepared = Small(root).prepare(source, labelled=True)
    config = FIT.model_copy(update={"model": FIT.model.model_copy(update={"resolution_px": 96})})
    figures: dict[str, bytes] = {}

    def listen(event: str, **fields: Any) -> None:
        if event == "figure":
            figures[fields["name"]] = base64.b64decode(fields["png"])

    engine.run("fit", config, {"labelled": prepared, "validation": prepared}, root, listen)
    assert list(figures) == ["noise-grid", "training-batch"]
    assert len(figures["noise-grid"]) > 4 * 2**16  # a pipe holds 2**16 bytes at a time
    for png in figures.values():
        Image.open(io.BytesIO(png)).load()  # raises for a damaged one


def test_results_are_values_and_workers_are_used_again(
    engine: LocalEngine, root: str, fit_inputs: dict[str, str], sources: dict[str, str]
) -> None:
    inputs = {"checkpoint": Small(root).teacher(fit_inputs), "images": fit_inputs["labelled"]}
    config = PredictConfig(batch_size=4)
    planned = engine.run("plan_predict", config, inputs, root, num_groups=4)
    assert [group["parts"] for group in planned] == [[0], [1]]
    first = worker()
    assert engine.run("predict_group", config, inputs, root, parts=[1]) == 2
    planned = engine.run("plan_predict", config, inputs, root, num_groups=4)
    assert [group["parts"] for group in planned] == [[0]]
    assert worker() == first


def test_an_error_is_the_stage_s_own_and_the_worker_lives(
    engine: LocalEngine, root: str, sources: dict[str, str]
) -> None:
    inputs = {"source": sources["labelled"] + ".gone"}
    with pytest.raises(SourceError) as here:
        stages.prepare(LABELLED, inputs, root)
    engine.run("prepare", LABELLED, {"source": sources["labelled"]}, root)
    before = worker()
    with pytest.raises(SourceError) as there:
        engine.run("prepare", LABELLED, inputs, root)
    assert str(there.value) == str(here.value)
    assert worker() == before


def test_a_killed_worker_is_an_error_and_the_next_call_works(
    engine: LocalEngine, root: str, fit_inputs: dict[str, str]
) -> None:
    killed: list[int] = []

    def kill(event: str, **fields: Any) -> None:
        if not killed:
            killed.append(worker())
            os.kill(killed[0], signal.SIGKILL)

    with pytest.raises(
        WorkerDiedError, match="worker was ended by SIGKILL: out of memory is the usual reason; its last"
    ):
        engine.run("fit", LONG, fit_inputs, root, kill)
    engine.run("fit", FIT, fit_inputs, root)
    assert worker() != killed[0]


def test_closing_ends_the_worker_in_the_middle_of_a_stage(root: str, fit_inputs: dict[str, str]) -> None:
    running, busy, raised = LocalEngine(), threading.Event(), []

    def fit() -> None:
        try:
            running.run("fit", LONG, fit_inputs, root, lambda event, **fields: busy.set())
        except WorkerDiedError as error:
            raised.append(error)

    others = set(workers_of(os.getpid()))
    thread = threading.Thread(target=fit)
    thread.start()
    assert busy.wait(60)
    (mine,) = set(workers_of(os.getpid())) - others
    running.close()
    thread.join(5)
    assert start_time(mine) is None
    assert len(raised) == 1
    with pytest.raises(NoisyStudentError, match="fit: not started, the run is over"):
        running.run("fit", FIT, fit_inputs, root)


def test_a_silent_worker_is_ended(root: str) -> None:
    silent = LocalEngine(silence_s=0.005)  # less than Python needs to start
    others = set(workers_of(os.getpid()))
    with pytest.raises(WorkerDiedError, match=r"said nothing for 0 s, the limit of NOISY_STUDENT_WORKER_SILENCE_S"):
        silent.run("prepare", LABELLED, {"source": "nowhere"}, root)
    assert set(workers_of(os.getpid())) == others


PARENT = """
import sys
from noisystudent_core.config import FitConfig
from tasks.engines import LocalEngine

def say(event, **fields):
    print("busy", flush=True)

config = FitConfig.model_validate_json(sys.argv[1])
LocalEngine().run("fit", config, {"labelled": sys.argv[2], "validation": sys.argv[3]}, sys.argv[4], say)
"""


def test_a_worker_does_not_survive_its_parent(root: str, fit_inputs: dict[str, str]) -> None:
    arguments = [LONG.model_dump_json(), fit_inputs["labelled"], fit_inputs["validation"], root]
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "busy\n"
        (orphan,) = workers_of(parent.pid)
        parent.send_signal(signal.SIGKILL)
        wait_until(lambda: start_time(orphan) is None, limit_s=5)
    finally:
        parent.kill()
        parent.communicate()


def test_an_engine_lives_as_long_as_its_run() -> None:
    with opened("local", "run 1") as engine:
        assert engine_of("run 1") is engine
        assert engine.num_slots == 1
    with pytest.raises(NoisyStudentError, match="the run is over"):
        engine.run("prepare", LABELLED, {}, "")


def test_unknown_engine_is_named() -> None:
    with pytest.raises(ConfigurationError, match="engine 'slurm': must be one of local, ray"):
        check_engine("slurm")
    with pytest.raises(ConfigurationError, match="engine 'slurm'"), opened("slurm", "run 2"):
        pass


@pytest.mark.parametrize(
    ("visible", "slots"),
    [("0,2", ["0", "2"]), ("GPU-1a", ["GPU-1a"]), ("", [NO_GPU])],
)
def test_a_slot_for_each_visible_device(monkeypatch: pytest.MonkeyPatch, visible: str, slots: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [slot.gpu for slot in LocalEngine()._all] == slots


def test_a_fit_on_several_gpus_takes_their_slots_and_one_worker_that_sees_them(
    monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")  # named only: nothing here gets as far as using one
    several, seen = LocalEngine(), []
    others, inputs = set(workers_of(os.getpid())), {"source": "nowhere", "labelled": "nowhere", "validation": "nowhere"}
    # a batch of 6: 3 processes share it evenly, 4 do not; preparing takes one slot
    for call, config in [("fit", FIT), ("prepare", LABELLED)]:
        with pytest.raises(SourceError):
            several.run(call, config, inputs, root)
        (pid,) = set(workers_of(os.getpid())) - others
        variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
        seen += [value for name, _, value in (line.partition("=") for line in variables) if name.startswith("CUDA_VIS")]
    several.close()
    assert seen == ["0,1,2", "0"]
    with pytest.raises(ConfigurationError, match=r"num_processes=5: must be at most 4"):
        several.run("fit", FIT.model_copy(update={"execution": ExecutionConfig(num_processes=5)}), inputs, root)


def test_slots_are_taken_all_at_once_and_in_turn() -> None:
    slots, order, most = Slots(["a", "b", "c"]), [], []
    wanted = [1, 3, 1, 2, 2, 1, 3, 1] * 4
    in_use: list[str] = []

    def use(number: int, turn: int) -> None:
        with slots.taken(number) as mine:
            order.append(turn)
            in_use.extend(mine)
            most.append(len(in_use))
            assert len(mine) == number and len(set(in_use)) == len(in_use)
            time.sleep(0.002)
            for slot in mine:
                in_use.remove(slot)

    with slots.taken(3):
        threads = []
        for turn, number in enumerate(wanted):
            threads.append(threading.Thread(target=use, args=(number, turn)))
            threads[-1].start()
            wait_until(lambda waiting=turn + 1: len(slots._waiting) == waiting, limit_s=5)
        assert order == []
    for thread in threads:
        thread.join(5)
    assert sorted(order) == list(range(len(wanted)))
    assert max(most) == 3
    threes = [turn for turn, number in enumerate(wanted) if number == 3]
    assert [set(order[:turn]) for turn in threes] == [set(range(turn)) for turn in threes]  # none overtook them


def test_flow_and_tasks_start_without_torch() -> None:
    folder = Path(engines.__file__).parent
    names = ["flows.noisy_student", "flows.cli", *(f"tasks.{file.stem}" for file in folder.glob("[a-z]*.py"))]
    heavy = "{'torch', 'torchvision', 'timm', 'polars', 'mlflow'}"
    check = f"import sys, {', '.join(names)}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, cwd=folder.parent)
    assert done.stdout.strip() == "[]"
