"""deployments/prefect.yaml: read by Prefect itself, its flows imported, its values taken by pools of each kind."""

import asyncio
import inspect
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from docker.types import DeviceRequest
from prefect.cli.deploy._config import _load_deploy_configs_and_actions
from prefect.deployments.steps.core import run_steps
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import validate
from prefect.utilities.templating import apply_values
from prefect.workers.base import BaseJobConfiguration
from prefect.workers.process import ProcessWorker
from pydantic import ConfigDict
from rich.console import Console

from deployments import placement
from noisystudent_core.errors import ConfigurationError
from tasks import services
from tasks.mlflow_connection import UI_URL

FOLDER = Path(placement.__file__).parent
VARIABLES = ("NOISY_STUDENT_IMAGE", "NOISY_STUDENT_GPUS", "NOISY_STUDENT_GPU_NODES", "NOISY_STUDENT_ROOT")
ON_CPUS = {"evaluate-on-cpu", "prepare"}
Deployments = dict[str, dict[str, Any]]


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of placement's variables none is set."""
    for name in (*VARIABLES, *placement.PASSED):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def deployments(monkeypatch: pytest.MonkeyPatch) -> Deployments:
    """Every deployment as `prefect deploy` sends it to a server."""
    return deployed(monkeypatch)


def deployed(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Deployments:
    for name, value in {"NOISY_STUDENT_WORK_POOL": "anywhere", **variables}.items():
        monkeypatch.setenv(name, value)
    shown = Console(record=True)
    configs, actions = _load_deploy_configs_and_actions(FOLDER / "prefect.yaml", console=shown)
    assert shown.export_text() == ""  # its reader only prints what it refuses
    outputs = asyncio.run(run_steps(actions["build"], print_function=lambda _: None))
    return {config["name"]: apply_values(filled_in(config), outputs) for config in configs}


def filled_in(config: dict[str, Any]) -> dict[str, Any]:
    """With the variables that are set; the others stay as they are."""
    filled: Any = apply_values(config, dict(os.environ), remove_notset=False)
    return filled


def template(kind: str) -> dict[str, Any]:
    """The pool's: ours, and for process Prefect's own."""
    if kind == "process":
        return ProcessWorker.get_default_base_job_template()
    return json.loads((FOLDER / f"{kind}.json").read_text())


def test_every_entrypoint_is_a_flow_that_takes_the_parameters(deployments: Deployments) -> None:
    assert len(deployments) > 10
    for config in deployments.values():
        assert ".py" not in config["entrypoint"]
        flow = load_flow_from_entrypoint(config["entrypoint"])
        parameters = config.get("parameters", {})
        given = {name: value for name, value in parameters.items() if value is not None}
        required = {"evaluate-on-cpu": {"checkpoint": "timm:resnet18"}}.get(config["name"], {})
        schema = parameter_schema(flow).model_dump_for_openapi()
        assert set(parameters) <= set(inspect.signature(flow.fn).parameters)
        assert not validate({**required, **given}, schema, raise_on_error=False, ignore_required=True)


def test_every_flow_has_a_deployment(deployments: Deployments) -> None:
    assert {config["entrypoint"] for config in deployments.values()} >= {
        "flows.noisy_student.noisy_student",
        "flows.evaluate_model.evaluate_model",
        "flows.ablate.ablate",
        "flows.prepare_data.prepare_data",
    }


def test_pool_is_the_environments_and_the_local_one_for_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, deployments: Deployments
) -> None:
    assert {config["work_pool"]["name"] for config in deployments.values()} == {"anywhere"}
    local = services.environment(services.servers_at(tmp_path))["NOISY_STUDENT_WORK_POOL"]
    assert local == services.WORK_POOL


def test_a_pool_that_is_not_named_is_said_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    deployed(monkeypatch)
    monkeypatch.delenv("NOISY_STUDENT_WORK_POOL")
    configs, _ = _load_deploy_configs_and_actions(FOLDER / "prefect.yaml", console=Console(quiet=True))
    assert filled_in(configs[0])["work_pool"]["name"] == "{{ $NOISY_STUDENT_WORK_POOL }}"


def test_what_needs_no_gpu_is_on_a_queue_of_its_own(deployments: Deployments) -> None:
    queues = {config["name"]: config["work_pool"]["work_queue_name"] for config in deployments.values()}
    assert {name for name, queue in queues.items() if queue == "cpu"} == ON_CPUS
    assert set(queues.values()) == {"cpu", "gpu"}
    for config in deployments.values():
        variables = config["work_pool"]["job_variables"]
        assert (variables["gpus"] == 0) == (config["name"] in ON_CPUS)
        assert ("device_requests" in variables["container_create_kwargs"]) != (config["name"] in ON_CPUS)


@pytest.mark.parametrize("kind", ["process", "docker", "kubernetes"])
def test_job_variables_fit_the_schema_of_the_pool(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    schema = template(kind)["variables"]
    nodes = "gpu.kind=l4,zone=a"
    for variables in ({}, {"NOISY_STUDENT_GPU_NODES": nodes, "MLFLOW_TRACKING_URI": "http://mlflow:5000"}):
        for config in deployed(monkeypatch, **variables).values():
            assert not validate(config["work_pool"]["job_variables"], schema, raise_on_error=False)


@pytest.mark.parametrize("kind", ["process", "docker", "kubernetes"])
def test_a_pool_takes_what_its_kind_has(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    config = deployed(monkeypatch, NOISY_STUDENT_IMAGE="registry/image:7", NOISY_STUDENT_GPUS="2")["iterate"]
    job = asyncio.run(AnyJob.from_template_and_values(template(kind), config["work_pool"]["job_variables"]))
    text = job.model_dump_json()
    assert ("registry/image:7" in text) == (kind != "process")
    assert ('"Count":2' in text) == (kind == "docker")
    assert ('"nvidia.com/gpu":2' in text) == (kind == "kubernetes")
    assert "{{" not in text.replace("{{ ctx.", "")


class AnyJob(BaseJobConfiguration):
    """A job with whatever its template says."""

    model_config = ConfigDict(extra="allow")


def test_docker_fills_in_secrets_where_the_worker_runs(
    monkeypatch: pytest.MonkeyPatch, deployments: Deployments
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the worker")
    job = asyncio.run(
        AnyJob.from_template_and_values(template("docker"), deployments["iterate"]["work_pool"]["job_variables"])
    )
    assert job.env["AWS_SECRET_ACCESS_KEY"] == "of the worker"
    assert "of the worker" not in json.dumps(deployments)


def test_defaults(deployments: Deployments) -> None:
    variables = deployments["iterate"]["work_pool"]["job_variables"]
    assert variables["image"] == f"noisy-student:{version('noisy-student')}"
    assert (variables["gpus"], variables["env"], variables["node_selector"]) == (1, {}, {})
    assert deployments["iterate"]["parameters"] == {"root": None}
    for kind in ("docker", "kubernetes"):
        assert template(kind)["variables"]["properties"]["image"]["default"] == variables["image"]


def test_addresses_go_to_the_flow_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"MLFLOW_TRACKING_URI": "http://mlflow:5000", UI_URL: "https://mlflow.example.org"}
    assert deployed(monkeypatch, **given)["iterate"]["work_pool"]["job_variables"]["env"] == given


def test_docker_understands_the_request_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    (request,) = deployed(monkeypatch, NOISY_STUDENT_GPUS="4")["iterate"]["work_pool"]["job_variables"][
        "container_create_kwargs"
    ]["device_requests"]
    understood = DeviceRequest(**request)
    assert (understood.count, understood.driver, understood.capabilities) == (4, "nvidia", [["gpu"]])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("NOISY_STUDENT_GPUS", "two", "must be a number of GPUs, 0 or more"),
        ("NOISY_STUDENT_GPUS", "-1", "must be a number of GPUs, 0 or more"),
        ("NOISY_STUDENT_GPU_NODES", "l4", "must be a node's label, key=value"),
        ("NOISY_STUDENT_ROOT", "s3://key:secret@bucket/root", "everyone could read it"),
        ("MLFLOW_TRACKING_URI", "https://name:secret@mlflow.example.org", "everyone could read it"),
        (UI_URL, "https://name:secret@mlflow.example.org", "everyone could read it"),
    ],
)
def test_what_makes_no_sense_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=words) as error:
        placement.placement()
    assert name in str(error.value)
    assert "secret" not in str(error.value)
