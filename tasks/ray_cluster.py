"""This process's connection to an existing Ray cluster, and what the machines of it have and see."""

import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from noisystudent_core.errors import ConfigurationError, WorkerDiedError
from noisystudent_core.interruption import handler_kept
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.sources import source_digest
from tasks import ray_worker
from tasks.ray_worker import in_few_words

CONNECT_S = 10.0  # to reach the cluster's address
ANSWER_S = 120.0  # that a machine has to answer a question
CPUS = "NOISY_STUDENT_RAY_CPUS"
MODULES = ("noisystudent_core", "tasks")  # that every machine needs
DISTRIBUTION = "noisy-student"

_lock = threading.Lock()
_users = 0  # of the connection
_is_ours = False  # else the program that runs the flow had connected before


def connect() -> None:
    """Connect to the cluster at RAY_ADDRESS, or to the one that this machine belongs to.

    Ray reads RAY_AUTH_MODE and RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH, from the environment. Raises
    `ConfigurationError` where no cluster answers, or it refuses.
    """
    global _users, _is_ours
    with _lock:
        if not _users:
            _is_ours = not ray.is_initialized()
        if _is_ours and not _users:
            _begin()
        _users += 1


def disconnect() -> None:
    """Leave the cluster when the last engine on it is closed; what is left of ours there ends."""
    global _users
    with _lock:
        _users -= 1
        if _is_ours and not _users:
            ray.shutdown()


def _begin() -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS") or "auto"
    with handler_kept():
        try:
            if address != "auto":
                _reach(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
        except (OSError, RuntimeError, ValueError, RayError) as error:
            ray.shutdown()
            raise ConfigurationError(
                f"engine 'ray': no cluster at {'this machine' if address == 'auto' else address} takes this run "
                f"({in_few_words(error)}); run the flow on a machine of one, with its host:port in RAY_ADDRESS, and "
                "RAY_AUTH_MODE and RAY_AUTH_TOKEN where it asks for a token, or start one: ray start --head"
            ) from None


def _reach(address: str) -> None:
    """Raise `OSError` or `ValueError` where nobody listens: Ray would take minutes to say so."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), timeout=CONNECT_S).close()


def workers() -> tuple[dict[str, float], list[dict[str, Any]]]:
    """The resources of each worker, all alike, and the machine of each: one a GPU, or where there is none, a machine.

    NOISY_STUDENT_RAY_CPUS is a worker's number of CPUs; by default each has an equal share of its machine's.
    """
    machines = [node for node in ray.nodes() if node["Alive"]]
    kind = "GPU" if any(_amount(node, "GPU") for node in machines) else "CPU"
    machines = [node for node in machines if _amount(node, kind)]
    shares = [max(1, _amount(node, "CPU") // max(1, _amount(node, "GPU"))) for node in machines]
    wanted = os.environ.get(CPUS)
    if wanted is not None and not (wanted.isdigit() and 1 <= int(wanted) <= max(shares, default=1)):
        raise ConfigurationError(
            f"{CPUS}={wanted}: must be from 1 to {max(shares, default=1)}, what a worker on this cluster can have; "
            "leave it out for an equal share of a machine's"
        )
    cpus = int(wanted) if wanted is not None else min(shares, default=1)
    resources = {"CPU": float(cpus)} | ({"GPU": 1.0} if kind == "GPU" else {})
    places = [node for node in machines for _ in range(_amount(node, kind) // (1 if kind == "GPU" else cpus))]
    if not places:
        raise ConfigurationError("engine 'ray': the cluster has neither a GPU nor a CPU; start machines that have")
    return resources, places


def _amount(node: dict[str, Any], kind: str) -> int:
    return int(node["Resources"].get(kind, 0))


def on_this_machine() -> NodeAffinitySchedulingStrategy:
    """Have an actor run where this process does."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def check_installation(places: list[dict[str, Any]]) -> None:
    """Raise `ConfigurationError` unless the cluster's machines have this package, of this version."""

    def missing(modules: tuple[str, ...], distribution: str, wanted: str) -> str | None:  # pickled whole: no import
        from importlib import import_module
        from importlib.metadata import version

        try:
            for module in modules:
                import_module(module)
            found = version(distribution)
        except ImportError as error:
            return str(error)
        return None if found == wanted else f"{distribution} {found}"

    for address, found in _ask(places, missing, MODULES, DISTRIBUTION, wanted := version(DISTRIBUTION)):
        if found is not None:
            raise ConfigurationError(
                f"engine 'ray': {address} cannot run stages ({found}); install {DISTRIBUTION}[ray] {wanted} on every "
                "machine of the cluster, in the environment that `ray start` runs in"
            )


def check_reach(places: list[dict[str, Any]], root: str, sources: list[str]) -> None:
    """Raise `ConfigurationError` unless the cluster's machines see this root and these sources as this one does."""
    folder, marker = Folder.at(root), f".seen-{uuid.uuid4().hex}"
    digests = {url: source_digest(url) for url in sources}
    folder.publish(marker, b"")
    try:
        answers = _ask(places, ray_worker.unreachable, str(Path.cwd()), root, marker, digests)
    finally:
        folder.remove(marker)
    for address, found in answers:
        if found is not None:
            raise ConfigurationError(
                f"engine 'ray': {address} does not see {found}; give a bucket, with credentials on every machine, or a "
                "folder that all machines share under the same path"
            )


def _ask(places: list[dict[str, Any]], question: Callable[..., Any], *arguments: Any) -> list[tuple[str, Any]]:
    """The address of each machine and its answer, asked all at once."""
    machines = {node["NodeID"]: node["NodeManagerAddress"] for node in places}
    task: Any = ray.remote(num_cpus=0, max_retries=0)(question)
    asked = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(*arguments)
        for node in machines
    ]
    try:
        return list(zip(machines.values(), ray.get(asked, timeout=ANSWER_S), strict=True))
    except RayError as error:
        raise WorkerDiedError(
            f"engine 'ray': a machine of the cluster did not answer within {ANSWER_S:.0f} s ({in_few_words(error)})"
        ) from None
