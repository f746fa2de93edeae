"""The Kubernetes pool's template and worker, against the schemas of Kubernetes itself."""

import asyncio
import copy
import json
from typing import Any

import kubernetes_validate
import pytest
import yaml
from prefect.workers.base import BaseJobConfiguration

from tests.deployments.composed import FOLDER

VERSIONS = ("1.31", kubernetes_validate.latest_version())
TEMPLATE = json.loads((FOLDER / "kubernetes.json").read_text())
WORKER = list(yaml.safe_load_all((FOLDER / "kubernetes-worker.yaml").read_text()))


class Job(BaseJobConfiguration):
    """The part of the Kubernetes worker's configuration that is sent to the cluster."""

    namespace: str
    job_manifest: dict[str, Any]


def manifest(**variables: Any) -> dict[str, Any]:
    """The job that the worker makes, which turns `env` into a list and `command` into arguments."""
    job = asyncio.run(Job.from_template_and_values(copy.deepcopy(TEMPLATE), {"name": "run", **variables}))
    (container,) = job.job_manifest["spec"]["template"]["spec"]["containers"]
    container["env"] = [{"name": name, "value": value} for name, value in container["env"].items()]
    container["args"] = ["prefect", "flow-run", "execute"]
    return job.job_manifest


def pod(**variables: Any) -> dict[str, Any]:
    return manifest(**variables)["spec"]["template"]["spec"]


@pytest.mark.parametrize("kubernetes", VERSIONS)
@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"gpus": 2, "node_selector": {"gpu": "l4"}, "env": {"A": "b"}},
        {"finished_job_ttl": 60, "memory_limit": "1.5Gi"},
    ],
)
def test_job_fits_the_schema(kubernetes: str, variables: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest(**variables), kubernetes, strict=True)


def test_schema_finds_faults() -> None:
    wrong = manifest()
    wrong["spec"]["template"]["spec"]["containers"][0]["imagePullPolicie"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_gpus_and_nodes_are_asked_for() -> None:
    asked = pod(gpus=2, node_selector={"gpu": "l4"})
    assert asked["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert asked["nodeSelector"] == {"gpu": "l4"}
    assert asked["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert pod()["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 0


def test_container_has_the_name_that_prefects_worker_insists_on() -> None:
    assert [container["name"] for container in pod()["containers"]] == ["prefect-job"]


def test_secrets_are_references() -> None:
    (source,) = pod(secret_name="of-the-team")["containers"][0]["envFrom"]
    assert source == {"secretRef": {"name": "of-the-team"}}
    assert "AWS" not in json.dumps(TEMPLATE["job_configuration"])


def test_run_has_neither_root_nor_rights() -> None:
    made = pod()
    assert made["securityContext"]["runAsNonRoot"] is True
    assert made["automountServiceAccountToken"] is False
    assert made["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert f"--uid {made['securityContext']['runAsUser']}" in (FOLDER / "Dockerfile").read_text()


def test_every_variable_is_described_and_used() -> None:
    used = json.dumps(TEMPLATE["job_configuration"])
    for name, schema in TEMPLATE["variables"]["properties"].items():
        assert schema["description"], name
        assert f"{{{{ {name} }}}}" in used, name
        assert "default" in schema, name


@pytest.mark.parametrize("kubernetes", VERSIONS)
@pytest.mark.parametrize("resource", WORKER, ids=lambda resource: resource["kind"])
def test_worker_fits_the_schema(kubernetes: str, resource: dict[str, Any]) -> None:
    kubernetes_validate.validate(resource, kubernetes, strict=True)


def test_worker_may_start_what_the_template_asks_for() -> None:
    kinds = {resource["kind"]: resource for resource in WORKER}
    accounts = {resource["metadata"]["name"] for resource in WORKER if resource["kind"] == "ServiceAccount"}
    assert TEMPLATE["variables"]["properties"]["service_account_name"]["default"] in accounts
    assert kinds["Deployment"]["spec"]["template"]["spec"]["serviceAccountName"] in accounts
    namespaces = {resource["metadata"]["namespace"] for resource in WORKER}
    assert namespaces == {TEMPLATE["variables"]["properties"]["namespace"]["default"]}
    jobs = next(rule for rule in kinds["Role"]["rules"] if "jobs" in rule["resources"])
    assert {"create", "delete", "watch"} <= set(jobs["verbs"])
