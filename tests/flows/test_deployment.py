"""The deployment on a server with a worker: wrong parameters, and a flow's process that is killed and gone on with."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow.parquet as pq
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, FlowRunFilter, FlowRunFilterId
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, temporary_settings

from noisystudent_core.recipes import EXAMPLES
from noisystudent_core.storage.verify import artifact_urls, problems
from tasks import servers
from tasks.hooks import HOW_TO_GO_ON
from tasks.services import PREFECT_SETTINGS, SOURCE, WORK_POOL

DEPLOYMENT = "noisy-student/iterate"
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


def ask_for(**parameters: Any) -> UUID:
    """A run of the deployment with these parameters, whether a worker is there or not."""
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(DEPLOYMENT)
        return client.create_flow_run_from_deployment(deployment.id, parameters=parameters).id


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


def test_a_wrong_setting_ends_before_any_stage_and_says_so(folder: Path, worker: None) -> None:
    root = folder / "other"
    run_id = ask_for(root=str(root), overrides={"selection.treshold": 0.1})
    wait_for(lambda: bool(pages(run_id)))
    (page,) = pages(run_id)
    assert "no setting named 'treshold' there" in page
    assert "start a new run with another" in page
    assert not root.exists()
