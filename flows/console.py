"""What the commands need of Prefect: a flow run in this process, a deployment's run, and the table they leave.

Prefect reads its settings from the environment when it is imported: it is imported here after they are set.
"""

import json
import os
import sys
from importlib import import_module
from typing import Any

from noisystudent_core.errors import NoisyStudentError
from noisystudent_core.storage.secrets import refuse_any_secrets
from tasks import servers
from tasks.services import Servers, environment, home_folder, mlflow_page, servers_at

SENDING_S = 5.0  # at most, for what Prefect still has to tell its server
DEPLOYMENT = "noisy-student/iterate"
Rows = list[dict[str, Any]]


def run_flow(name: str, parameters: dict[str, Any]) -> Rows:
    """Run a flow here, on the Prefect server that answers, else on one that lives as long as the run.

    Raises `ConfigurationError` where a parameter holds credentials: Prefect would keep it.
    """
    refuse_any_secrets(parameters)
    with servers.temporary_prefect_server() as url:
        os.environ.update(_environment(url))
        flow: Any = getattr(import_module(f"flows.{name}"), name)
        try:
            return flow(**parameters)
        finally:
            _send_what_waits()


def _send_what_waits() -> None:
    """Prefect's logs and events go out while the server is there: at exit they would wait a minute for it."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for service in (APILogWorker, EventsWorker):
        service.drain_all(timeout=SENDING_S)


def _environment(prefect_url: str) -> dict[str, str]:
    """Settings of a run in this process: this Prefect server, and MLflow's server where it runs, else its database."""
    local = environment(servers_at(home_folder())) | {"PREFECT_API_URL": prefect_url}
    mlflow = next(service for service in servers.status() if service.name == "mlflow")
    if mlflow.state != "running":
        del local["MLFLOW_TRACKING_URI"]
    return local | {name: os.environ[name] for name in ("MLFLOW_TRACKING_URI",) if name in os.environ}


def start() -> Servers:
    """Have the local servers run, with the deployments on them."""
    started = servers.up()
    servers.deploy()
    return started


def run_deployment(started: Servers) -> Rows:
    """Run the deployment with its defaults, followed on this terminal; returns the iterations table.

    Raises `NoisyStudentError` if the run does not end well.
    """
    os.environ.update(environment(started))
    from prefect.client.orchestration import get_client

    from flows.following import follow

    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(DEPLOYMENT)
        created = client.create_flow_run_from_deployment(deployment.id)
        page = f"{started.prefect_url}/runs/flow-run/{created.id}"
        print(f"{DEPLOYMENT} runs; its page: {page}", file=sys.stderr)
        ended = follow(client, created.id)
        if ended.state is None or not ended.state.is_completed():
            raise NoisyStudentError(f"{ended.name}: {ended.state_name}; {_message(ended)}; its page: {page}")
        return _table(client, ended.id)


def _message(run: Any) -> str:
    return (run.state.message if run.state else None) or "no reason given"


def _table(client: Any, run_id: Any) -> Rows:
    """The table artifact of a flow run."""
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, FlowRunFilter, FlowRunFilterId

    artifacts = client.read_artifacts(
        artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["iterations"])),
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])),
    )
    if not artifacts:
        raise NoisyStudentError(f"flow run {run_id} left no table; its log tells why: prefect flow-run logs {run_id}")
    return json.loads(str(artifacts[0].data))


def addresses(started: Servers) -> str:
    """Where to look."""
    return f"Prefect: {started.prefect_url}\nMLflow:  {mlflow_page(started)}"
