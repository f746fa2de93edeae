"""The deployment on a server with a worker: wrong parameters, and a flow's process that is killed and gone on with."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow.parquet as pq
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, temporary_settings

from noisystudent_core.recipes import EXAMPLES
from noisystudent_core.storage.secrets import REMEDY
from noisystudent_core.storage.verify import artifact_urls, problems
from tasks import servers
from tasks.hooks import HOW_TO_GO_ON
from tasks.processes import free_port
from tasks.services import PREFECT_SETTINGS, SOURCE, WORK_POOL
from tests.flows.world import task_runs
from tests.storage.faulty_s3 import refusing_s3

DEPLOYMENT = "noisy-student/iterate"
SECRET = "hush19Zq"
QUICKLY_S = 20.0  # of the run itself, on busy cores; what is tried three times takes 2 s
SIZES = {"labelled": 60, "unlabelled": 200, "validation": 60, "test": 60}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with sources, and a server that has the deployments."""
    where = tmp_path_factory.mktemp("deployed")
    for split, size in SIZES.items():
        whole = pq.read_table(EXAMPLES / "digits" / f"{split}.parquet")
        pq.write_table(whole.take(list(range(0, len(whole), len(whole) // size))), where / f"{split}.parquet")
    with servers.temporary_prefect_server(where / "home") as url, pytest.MonkeyPatch.context() as patch:
        settings = PREFECT_SETTINGS | {
            "NOISY_STUDENT_HOME": str(where / "home"),
            "NOISY_STUDENT_FOLDER": str(SOURCE),
            "NOISY_STUDENT_WORK_POOL": WORK_POOL,
            "PREFECT_HOME": str(where / "home"),
            "PREFECT_API_URL": url,
            "MLFLOW_TRACKING_URI": f"sqlite:///{where}/mlflow.db",
            "PYTHONPATH": str(SOURCE),
        }
        for name, value in settings.items():
            patch.setenv(name, value)
        prefect("work-pool", "create", WORK_POOL, "--type", "process")
        prefect("--no-prompt", "deploy", "-n", "iterate", "--prefect-file", "deployments/prefect.yaml")
        with temporary_settings({PREFECT_API_URL: url}):
            yield where


@pytest.fixture(scope="module")
def worker(folder: Path) -> Iterator[None]:
    arguments = ["worker", "start", "--pool", WORK_POOL, "--type", "process"]
    with (folder / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", *arguments], cwd=SOURCE, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def prefect(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *arguments], cwd=SOURCE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ask_for(environment: dict[str, str] | None = None, /, **parameters: Any) -> UUID:
    """A run of the deployment with these parameters, whether a worker is there or not."""
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(DEPLOYMENT)
        variables = {"env": environment} if environment else None
        return client.create_flow_run_from_deployment(deployment.id, parameters=parameters, job_variables=variables).id


def state_of(run_id: UUID) -> Any:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(run_id).state


def wait_for(condition: Callable[[], bool], limit_s: float = 240.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def pages(run_id: UUID) -> list[str]:
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[HOW_TO_GO_ON])),
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])),
        )
    return [str(page.data) for page in found]


def test_the_form_knows_choices_limits_and_descriptions(folder: Path) -> None:
    with get_client(sync_client=True) as client:
        deployment: Any = client.read_deployment_by_name(DEPLOYMENT)
    fields = deployment.parameter_openapi_schema["properties"]
    assert {"digits", "finetune"} <= set(fields["recipe"]["enum"])
    assert fields["engine"]["enum"] == ["local", "ray"]
    assert {"minimum": 0, "exclusiveMaximum": 1, "type": "number"} in fields["threshold"]["anyOf"]
    assert {"minimum": 1, "type": "integer"} in fields["num_iterations"]["anyOf"]
    assert (fields["shrink"]["exclusiveMinimum"], fields["shrink"]["maximum"]) == (0, 1)
    assert all(field["description"] for field in fields.values())


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"recipe": "imagenet"}, "imagenet"),
        ({"seed": "one"}, "seed"),
        ({"threshold": 1.0}, "threshold"),
        ({"num_iterations": 0}, "num_iterations"),
        ({"shrink": 0}, "shrink"),
        ({"root": "s3://KEY:SECRET@bucket"}, "root"),
        ({"overrides": {"sources.test": "https://host/x?X-Amz-Signature=1"}}, "overrides"),
    ],
)
def test_wrong_parameters_are_refused_by_the_server(folder: Path, parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(PrefectHTTPStatusError) as error:
        ask_for(**parameters)
    assert error.value.response.status_code in (409, 422)
    assert words in error.value.response.text


@pytest.mark.parametrize(
    "parameters",
    [
        {"root": f"s3://KEY:{SECRET}@bucket"},
        {"labelled": f"https://host/x?X-Amz-Signature={SECRET}"},
        {"overrides": {"sources.test": f"https://host/x?Signature={SECRET}"}},
    ],
)
def test_a_secret_is_refused_in_words_that_do_not_repeat_it(folder: Path, parameters: dict[str, Any]) -> None:
    with pytest.raises(PrefectHTTPStatusError) as error:
        ask_for(**parameters)
    detail = error.value.response.json()["detail"]
    assert f"Failure reason: {REMEDY!r} was expected" in detail
    assert SECRET not in error.value.response.text


def test_a_run_whose_process_is_killed_says_how_to_go_on_and_goes_on(folder: Path, worker: None) -> None:
    root = folder / "root"
    run_id = ask_for(
        **{split: str(folder / f"{split}.parquet") for split in SIZES},
        root=str(root),
        shrink=0.02,
        threshold=0.0,
        num_images_per_class=10,
        num_iterations=1,
        overrides={"data.images_per_part": 100, "robustness": {}},
    )
    wait_for(lambda: bool(list(root.glob("images/*/manifest.json"))))
    with get_client(sync_client=True) as client:
        pid = client.read_flow_run(run_id).infrastructure_pid
    assert pid is not None
    os.kill(int(pid.rpartition(":")[2]), signal.SIGKILL)
    wait_for(lambda: bool(pages(run_id)))
    (page,) = pages(run_id)
    assert page.startswith("**Crashed**: Process exited with status code: -9")
    assert "Last good stage: " in page
    assert page.endswith(f"`prefect flow-run retry {run_id}`")
    finished = artifact_urls(str(root))

    prefect("flow-run", "retry", str(run_id))
    wait_for(lambda: state_of(run_id).is_completed())
    assert set(finished) <= set(artifact_urls(str(root)))
    assert not [problem for url in artifact_urls(str(root)) for problem in problems(url)]


@dataclass(frozen=True)
class Bad:
    """A run that cannot begin: what is asked for, what stands for the bucket, and the words that it ends with."""

    parameters: dict[str, Any]
    words: tuple[str, ...]
    bucket: str | None = None  # the code that it refuses with, or "nobody"


BAD = {
    "unknown override": Bad(
        {"overrides": {"selection.treshold": 0.1}},
        ("ConfigurationError: override 'selection.treshold'", "no setting named", "there is threshold"),
    ),
    "root that cannot be written": Bad(
        {"root": "/proc/root-of-nobody"},
        ("RootError: /proc/root-of-nobody", "cannot be written", "check the path and its rights"),
    ),
    "root where nobody listens": Bad(
        {"root": "s3://bucket/root"},
        ("s3://bucket/root", "3 attempts failed", "correct AWS_ENDPOINT_URL, or try again later"),
        "nobody",
    ),
    "root for an unknown key": Bad(
        {"root": "s3://bucket/root"},
        ("s3://bucket/root", "credentials refused (InvalidAccessKeyId: ", "renew them, or choose others"),
        "InvalidAccessKeyId",
    ),
    "images for an unknown key": Bad(
        {"labelled": "s3://bucket/images/*.parquet"},
        ("SourceError: s3://bucket/images/*.parquet", "credentials refused (InvalidAccessKeyId", "renew them"),
        "InvalidAccessKeyId",
    ),
}


def test_what_cannot_begin_ends_before_any_stage_and_says_so(folder: Path, worker: None) -> None:
    root = folder / "other"
    with ExitStack() as buckets:
        run_ids = {}
        for name, bad in BAD.items():
            run_ids[name] = ask_for(_bucket(bad, buckets), **{"root": str(root), **bad.parameters})
        for name, run_id in run_ids.items():  # at once: the start of their processes is what takes long
            wait_for(lambda run_id=run_id: bool(pages(run_id)) and state_of(run_id).is_final())
            with get_client(sync_client=True) as client:
                run = client.read_flow_run(run_id)
                logged = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id])))
            (page,) = pages(run_id)
            assert run.state is not None and run.state.message is not None
            assert run.state.is_failed()
            assert all(words in run.state.message for words in BAD[name].words), run.state.message
            assert "\n" not in run.state.message
            assert run.state.message in page
            assert "No stage was finished." in page
            assert "Correct what the reason names" in page
            assert "start a new run with another" in page
            assert run.total_run_time.total_seconds() < QUICKLY_S
            assert not task_runs(run)
            lines = [record.message for record in logged]
            assert any(run.state.message.partition(": ")[2] in line for line in lines)
            assert not [line for line in lines if "Traceback" in line]
            assert SECRET not in "".join([page, run.state.message, *lines])
    assert not [path for path in root.rglob("*") if path.name != ".noisy-student"]


def _bucket(bad: Bad, buckets: ExitStack) -> dict[str, str] | None:
    """The variables by which a run finds the store of its bucket."""
    if bad.bucket is None:
        return None
    nobody = f"http://127.0.0.1:{free_port()}"
    url = nobody if bad.bucket == "nobody" else buckets.enter_context(refusing_s3(bad.bucket))
    return {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "KEY", "AWS_SECRET_ACCESS_KEY": SECRET}
