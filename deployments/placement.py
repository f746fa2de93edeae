"""Where flow runs run, read from the environment of whoever deploys: the build step of `prefect.yaml`.

Prefect's own placeholders, `{{ $NAME }}`, know no default and no type; hence a step. A pool takes of its answers what
its kind has: a process pool takes no image and no GPU, its flow runs have those of the worker.
"""

import os
from importlib.metadata import version
from typing import Any

from noisystudent_core.errors import ConfigurationError
from noisystudent_core.storage.secrets import refuse_secrets

# Where things are, never how to get in: Prefect stores a deployment's variables in the clear.
PASSED = (
    "MLFLOW_TRACKING_URI",
    "NOISY_STUDENT_MLFLOW_UI_URL",
    "AWS_ENDPOINT_URL",
    "AWS_DEFAULT_REGION",
    "RAY_ADDRESS",
    "NOISY_STUDENT_RAY_CPUS",
    "NOISY_STUDENT_WORKER_SILENCE_S",
)
SHARED_MEMORY = "2g"  # of a container: NCCL passes gradients through it; Docker's default is 64 MB


def placement() -> dict[str, Any]:
    """The values that `prefect.yaml` names as `{{ here.NAME }}`.

    Raises `ConfigurationError` for a variable that makes no sense, or that has a password in it.
    """
    gpus = _count("NOISY_STUDENT_GPUS", default=1)
    return {
        "image": os.environ.get("NOISY_STUDENT_IMAGE") or f"noisy-student:{version('noisy-student')}",
        "env": {name: _without_password(name) for name in PASSED if os.environ.get(name)},
        "root": _without_password("NOISY_STUDENT_ROOT"),
        "gpus": gpus,
        "gpu_nodes": _labels("NOISY_STUDENT_GPU_NODES"),
        "on_cpus": {"shm_size": SHARED_MEMORY},
        "on_gpus": {"shm_size": SHARED_MEMORY, "device_requests": _device_requests(gpus)},
    }


def _count(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal():
        raise ConfigurationError(f"{name}={text!r}: must be a number of GPUs, 0 or more; unset it for {default}")
    return int(text)


def _without_password(name: str) -> str | None:
    """The variable, None where it is not set."""
    text = os.environ.get(name) or None
    try:
        refuse_secrets(text or "")
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}: everyone could read it in the deployment; {error}") from None
    return text


def _labels(name: str) -> dict[str, str]:
    """Labels of Kubernetes nodes, `key=value,key=value`."""
    pairs = [pair.partition("=") for pair in os.environ.get(name, "").split(",") if pair]
    if wrong := [key for key, sign, value in pairs if not (key and sign and value)]:
        raise ConfigurationError(f"{name}: {wrong[0]!r} must be a node's label, key=value, several with commas")
    return {key: value for key, _, value in pairs}


def _device_requests(gpus: int) -> list[dict[str, Any]]:
    """What Docker is asked for, as its API spells it: none where no GPU is wanted, for it would refuse."""
    return [{"Driver": "nvidia", "Count": gpus, "Capabilities": [["gpu"]]}] if gpus else []
