"""What a run leaves that ends badly, on a real Prefect server: failed, its process killed, its worker there or not."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Crashed, Running, Scheduled

from flows.ablate import ablate
from flows.evaluate_model import evaluate_model
from flows.noisy_student import noisy_student
from noisystudent_core.errors import ConfigurationError
from tasks import automation, lost_runs, servers
from tasks.hooks import HOW_TO_GO_ON, INTERRUPTION, begun, go_on_command, interrupted, numbered
from tasks.running import RETRIES
from tasks.services import SOURCE

WITHIN_S = 10.0  # the least that a server takes


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of its own with a server, whose environment child processes inherit."""
    folder = tmp_path_factory.mktemp("home")
    with servers.temporary_prefect_server(folder) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOISY_STUDENT_HOME", str(folder))
        patch.setenv("PREFECT_API_URL", url)
        patch.setenv("PYTHONPATH", str(SOURCE))
        with temporary_settings({PREFECT_API_URL: url}):
            yield folder


def wait_for(condition: Callable[[], bool], limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def read(run_id: str | UUID) -> FlowRun:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(UUID(str(run_id)))


def pages(run_id: str | UUID) -> list[str]:
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[HOW_TO_GO_ON])),
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[UUID(str(run_id))])),
        )
    return [str(page.data) for page in found]


KILLED = """
import os, signal, sys, time
from prefect import flow, runtime, task
from tasks.hooks import INTERRUPTION
from tasks.running import RETRIES

@task(task_run_name="{name}", **RETRIES)
def stage(name):
    pass

@flow(name="noisy-student", **INTERRUPTION)
def work(recipe="digits", root="/some where"):
    print(runtime.flow_run.id, flush=True)
    for name in sys.argv[1:]:
        stage(name)
        os.kill(os.getpid(), signal.SIGKILL)  # before the server is told of the stage
    time.sleep(600)

work(root="/some where else")
"""


def start_and_kill(after_s: float, *stages: str) -> str:
    """Start a run in a process of its own, kill it, the first stage finished, and return the run's id."""
    process = subprocess.Popen([sys.executable, "-c", KILLED, *stages], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    run_id = process.stdout.readline().strip()
    if not stages:
        time.sleep(after_s)
        process.kill()
    process.wait()
    return run_id


# the command


def a_run(of: Any, **changes: Any) -> FlowRun:
    return FlowRun(flow_id=uuid4(), **{"parameters": {}, **changes})


@pytest.mark.parametrize(
    ("of", "parameters", "command"),
    [
        (noisy_student, {"recipe": "digits", "seed": 0, "threshold": None}, "noisy-student run"),
        (
            noisy_student,
            {
                "root": "/with blank",
                "seed": 3,
                "num_iterations": 2,
                "register_model": False,
                "overrides": {"selection.balance": "none", "iterations.0.train.steps": 5, "data.class_names": ["a"]},
            },
            "noisy-student run --root '/with blank' --seed 3 --num-iterations 2 --no-register --set "
            """selection.balance=none --set iterations.0.train.steps=5 --set 'data.class_names=["a"]'""",
        ),
        (
            ablate,
            {"study": "labels", "seeds": [4, 5], "nets": ["a", "b"], "unlabelled": {"own": "s3://b/x"}},
            "noisy-student ablate --study labels --seed 4 --seed 5 --net a --net b --unlabelled own=s3://b/x",
        ),
        (
            evaluate_model,
            {"checkpoint": "timm:x", "folders": {"imagenet_a": "/a"}, "suites": ["corruptions"], "num_classes": 3},
            "noisy-student evaluate-model timm:x --folder imagenet_a=/a --suite corruptions --num-classes 3",
        ),
    ],
)
def test_a_run_in_this_process_goes_on_by_its_own_command(of: Any, parameters: dict[str, Any], command: str) -> None:
    assert go_on_command(of, a_run(of, parameters=parameters)) == command


def test_a_deployment_s_run_goes_on_by_a_retry() -> None:
    run = a_run(noisy_student, deployment_id=uuid4())
    assert go_on_command(noisy_student, run) == f"prefect flow-run retry {run.id}"


# failures


@task(task_run_name="fit teacher", **RETRIES)
def good() -> int:
    return 1


@flow(name="noisy-student", flow_run_name=numbered("{recipe} seed {seed}"), **INTERRUPTION)
def fails(error: str, recipe: str = "digits", seed: int = 0) -> None:
    good()
    if error:
        raise ConfigurationError(error) if "threshold" in error else ZeroDivisionError(error)


@pytest.mark.parametrize(("error", "remedy"), [("boom", "To go on"), ("threshold=2", "Correct what the reason names")])
def test_a_failure_leaves_the_reason_the_last_stage_and_the_command(home: Path, error: str, remedy: str) -> None:
    state = fails(error, seed=7, return_state=True)
    assert state.state_details.flow_run_id is not None
    (page,) = pages(state.state_details.flow_run_id)
    assert (
        f"**Failed**: Flow run encountered an exception: {'Configuration' if '=' in error else 'ZeroDivision'}" in page
    )
    assert error in page
    assert "Last good stage: fit teacher;" in page
    assert remedy in page
    assert "`noisy-student run --error" in page
    assert not list((home / "flow-runs").iterdir())


def test_runs_are_named_and_numbered(home: Path) -> None:
    names = []
    for seed in (1, 2):
        state = fails("", seed=seed, return_state=True)
        assert pages(str(state.state_details.flow_run_id)) == []
        names.append(read(str(state.state_details.flow_run_id)).name)
    (first, second) = (int(name.rpartition("#")[2]) for name in names)
    assert names[0] == f"noisy-student digits seed 1 #{first}"
    assert second == first + 1


# processes that are killed


def test_the_next_command_ends_a_run_whose_process_was_killed(home: Path) -> None:
    run_id = start_and_kill(after_s=0)
    assert read(run_id).state_name == "Running"
    assert lost_runs.report_lost_runs() == 1
    state = read(run_id).state
    assert state is not None
    assert (state.name, state.message) == (
        "Crashed",
        "Its process was killed. Finished stages are kept. To go on: `noisy-student run --root '/some where else'`",
    )
    assert lost_runs.report_lost_runs() == 0


@pytest.mark.parametrize("who", ["next command", "worker"])
def test_a_stage_that_the_server_was_not_told_of_is_the_last_good_one(home: Path, who: str) -> None:
    run_id = start_and_kill(0, "fit teacher")
    if who == "worker":
        interrupted(fails, read(run_id), Crashed(message="Process exited with status code: -9"))
        (page,) = pages(run_id)
        assert "Last good stage: fit teacher; what is finished is reused." in page
    else:
        assert lost_runs.report_lost_runs() == 1
        state = read(run_id).state
        assert state is not None and state.message is not None
        assert "was killed. Last good stage: fit teacher. Finished stages are kept. To go on: " in state.message
    assert not list((home / "flow-runs").iterdir())


def test_groups_and_plans_are_no_stages() -> None:
    names = ("fit teacher", "plan: fingerprint unlabelled", "fingerprint unlabelled: a group", "fingerprint unlabelled")
    assert [name for name in names if lost_runs.is_stage(name)] == ["fit teacher", "fingerprint unlabelled"]


def test_a_run_that_lasts_is_left_alone(home: Path) -> None:
    lost_runs.hold("00000000-0000-0000-0000-000000000001", "again")
    assert lost_runs.report_lost_runs() == 0
    lost_runs.let_go("00000000-0000-0000-0000-000000000001")


def test_a_retry_is_not_taken_for_the_attempt_that_was_killed(home: Path) -> None:
    run_id = start_and_kill(after_s=0)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(run_id), Scheduled(message="Retried via CLI"), force=True)
        assert lost_runs.report_lost_runs() == 0  # another run begins in the meantime
        assert read(run_id).state_name == "Scheduled"
        client.set_flow_run_state(UUID(run_id), Running(), force=True)
    run = read(run_id)
    assert run.state is not None
    begun(fails, run, run.state)
    assert read(run_id).state_name == "Running"
    lost_runs.let_go(run_id)
    assert not list((home / "flow-runs").iterdir())


def test_a_crash_that_is_reported_leaves_no_mark(home: Path) -> None:
    run_id = start_and_kill(after_s=0)
    interrupted(fails, read(run_id), Crashed(message="Process exited with status code: -9"))
    assert not list((home / "flow-runs").iterdir())


def test_the_automation_ends_a_run_without_a_heartbeat(home: Path) -> None:
    assert [automation.install(WITHIN_S) for _ in range(2)] == ["created", "unchanged"]
    run_id = start_and_kill(after_s=3)  # its first heartbeat has left
    wait_for(lambda: read(run_id).state_name == "Crashed")
    state = read(run_id).state
    assert state is not None
    assert state.message == automation.MESSAGE
    assert automation.install() == "updated"
    assert automation.install() == "unchanged"
    (lost_runs._folder() / f"{run_id}.json").unlink()


def test_heartbeats_may_be_missed_thrice() -> None:
    trigger: Any = automation.lost_heartbeat(automation.MISSED * automation.heartbeat_s()).trigger
    assert trigger.within.total_seconds() >= 3 * automation.heartbeat_s()
