"""Publishing a student: an MLflow model (torch.export, no pickled code) and a registered version with its aliases.

The checkpoint's safetensors stay the source of truth; the MLflow model is for those who serve from the registry.
"""

import json
import math
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.mlflow_connection import MLFLOW_ENVIRONMENT
from tasks.tracking import ITERATION_TAG, Tracker

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import Model
    from torch import nn

CHECKPOINT_TAG = "noisy_student.checkpoint"
TEACHER_ALIAS = "teacher"
CHAMPION_ALIAS = "champion"
CARD = "model_card.md"
CHECKPOINT_FILES = ("config.json", "model.safetensors")
EXAMPLE_BATCH_SIZE = 2  # torch.export fixes a dimension of size 1, so a dynamic batch needs at least 2
UPLOAD_TIMEOUT_SECONDS = "600"  # the tracker's few seconds are too short for a server that passes a large model on
TIMEOUT_VARIABLE = "MLFLOW_HTTP_REQUEST_TIMEOUT"

_PUBLISHING = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """A registered version; `created` is False where an earlier attempt had published the same checkpoint."""

    name: str
    version: int
    aliases: tuple[str, ...]
    created: bool
    url: str | None  # in MLflow's UI; None for a database address

    @property
    def uri(self) -> str:
        """What `mlflow.pytorch.load_model` takes."""
        return f"models:/{self.name}/{self.version}"


def publish_student(
    tracker: Tracker,
    run_id: str,
    *,
    checkpoint_dir: Path,
    checkpoint_digest: str,
    name: str,
    card: str,
    metrics: Mapping[str, float],
    champion_metric: str,
    iteration: int,
    tags: Mapping[str, str] | None = None,
) -> PublishedModel:
    """Register a checkpoint (timm's folder layout) as a version of model `name`, once per checkpoint digest.

    Alias `teacher` goes to the newest version; `champion` moves only to a version whose `champion_metric` (higher is
    better) is above the present champion's. The model takes normalised images float32 [B, C, S, S], any B, and returns
    logits [B, num_classes]; mean and std are in its metadata. `card`: Markdown, the version's description and a file
    beside the model. `run_id`: the publish stage's run. Needs torch, timm and
    memory for one model.

    Raises:
        ValueError: the folder is no checkpoint, or `champion_metric` is not among the metrics.
        mlflow.exceptions.MlflowException: the server does not answer, or refuses; worth a retry.
    """
    if missing := [file for file in CHECKPOINT_FILES if not (checkpoint_dir / file).is_file()]:
        raise ValueError(
            f"checkpoint_dir={checkpoint_dir}: no {' and no '.join(missing)} in it; give a checkpoint's folder"
        )
    if champion_metric not in metrics:
        raise ValueError(f"champion_metric={champion_metric!r}: must be one of the metrics, {sorted(metrics)}")
    client = tracker.client()
    _create_registered_model(client, name)
    found = _version_of(client, name, checkpoint_digest)
    if found is None:
        with _patient_uploads():
            model_id = _log_model(client, run_id, checkpoint_dir, card, metrics, iteration=iteration)
        own_tags = {CHECKPOINT_TAG: checkpoint_digest, ITERATION_TAG: str(iteration)}
        values = {key: repr(float(value)) for key, value in metrics.items()}
        number = _create_version(client, name, run_id, model_id, {**(tags or {}), **values, **own_tags}, card)
    else:
        number = int(found.version)
    _set_aliases(client, name, number, champion_metric)
    return _published(tracker, name, number, created=found is None)


@contextmanager
def _patient_uploads() -> Iterator[None]:
    """Longer request timeouts while a model is uploaded, unless the user has set one; one publication at a time."""
    with _PUBLISHING:
        before = os.environ.get(TIMEOUT_VARIABLE)
        if before == MLFLOW_ENVIRONMENT[TIMEOUT_VARIABLE]:
            os.environ[TIMEOUT_VARIABLE] = UPLOAD_TIMEOUT_SECONDS
        try:
            yield
        finally:
            if before is not None:
                os.environ[TIMEOUT_VARIABLE] = before


def _log_model(
    client: "MlflowClient",
    run_id: str,
    checkpoint_dir: Path,
    card: str,
    metrics: Mapping[str, float],
    *,
    iteration: int,
) -> str:
    """Upload the exported model as an output of the run, with its metrics; returns MLflow's model id."""
    import timm
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric
    from mlflow.models import Model
    from mlflow.utils.time import get_current_time_millis

    import noisystudent_core.models  # noqa: F401  (makes our own nets known to timm)

    model = timm.create_model(f"local-dir:{checkpoint_dir}", pretrained=True).eval()  # without it: random
    experiment_id = client.get_run(run_id).info.experiment_id
    logged = client.create_logged_model(experiment_id, name="student", source_run_id=run_id, model_type="pytorch")
    with tempfile.TemporaryDirectory() as folder:
        description = Model(model_uuid=logged.model_id, run_id=run_id, model_id=logged.model_id)
        _export(model, Path(folder) / "model", description)
        (Path(folder) / "model" / CARD).write_text(card)
        client.log_model_artifacts(logged.model_id, str(Path(folder) / "model"))
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=iteration)])
    now_ms = get_current_time_millis()
    values = [
        Metric(k, float(v), now_ms, iteration, model_id=logged.model_id, run_id=run_id) for k, v in metrics.items()
    ]
    client.log_batch(run_id, metrics=values)
    return logged.model_id


def _export(model: "nn.Module", folder: Path, description: "Model") -> None:
    """Write the MLflow model: a torch.export archive with a dynamic batch, signature, example, requirements."""
    import numpy as np
    import torch
    from mlflow.models import infer_signature
    from mlflow.pytorch import save_model
    from timm.data.config import resolve_model_data_config

    data_config = resolve_model_data_config(model)
    example = np.zeros((EXAMPLE_BATCH_SIZE, *data_config["input_size"]), np.float32)  # [2, C, S, S]
    with torch.inference_mode():
        logits = model(torch.from_numpy(example)).numpy()  # [2, num_classes]
    save_model(
        model,
        folder,
        mlflow_model=description,
        signature=infer_signature(example, logits),
        input_example=example,
        pip_requirements=[f"{package}=={version(package).split('+')[0]}" for package in ("mlflow", "torch", "numpy")],
        metadata={key: list(data_config[key]) for key in ("input_size", "mean", "std")},
        serialization_format="pt2",
    )


def _create_version(
    client: "MlflowClient", name: str, run_id: str, model_id: str, tags: Mapping[str, str], description: str
) -> int:
    # The folder, not "models:/<id>": MLflow looks that up at the process's global tracking address.
    source = client.get_logged_model(model_id).artifact_location
    made = client.create_model_version(
        name, source, run_id, tags=dict(tags), description=description, model_id=model_id
    )
    link = json.dumps([{"name": name, "version": made.version}])
    client.set_logged_model_tags(model_id, {"mlflow.modelVersions": link})  # the UI links the two by it
    return int(made.version)


def _create_registered_model(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _version_of(client: "MlflowClient", name: str, checkpoint_digest: str) -> "ModelVersion | None":
    condition = f"name = '{name}' and tags.`{CHECKPOINT_TAG}` = '{checkpoint_digest}'"
    return min(client.search_model_versions(condition), key=lambda found: int(found.version), default=None)


def _set_aliases(client: "MlflowClient", name: str, new: int, champion_metric: str) -> None:
    """Both rules hold for a version that was published before too, so a publication cut short is completed."""
    aliases = client.get_registered_model(name).aliases
    if TEACHER_ALIAS not in aliases or int(aliases[TEACHER_ALIAS]) < new:
        client.set_registered_model_alias(name, TEACHER_ALIAS, str(new))
    champion = aliases.get(CHAMPION_ALIAS)
    if champion is None or _score(client, name, new, champion_metric) > _score(client, name, champion, champion_metric):
        client.set_registered_model_alias(name, CHAMPION_ALIAS, str(new))


def _score(client: "MlflowClient", name: str, number: int | str, metric: str) -> float:
    """The metric of a version; a version without it, or with NaN, ranks below every other."""
    tags = client.get_model_version(name, str(number)).tags
    score = float(tags.get(metric, "nan"))
    return -math.inf if math.isnan(score) else score


def _published(tracker: Tracker, name: str, number: int, *, created: bool) -> PublishedModel:
    aliases = tracker.client().get_model_version(name, str(number)).aliases
    url = tracker.ui_url(f"models/{name}/versions/{number}")
    return PublishedModel(name=name, version=number, aliases=tuple(sorted(aliases)), created=created, url=url)
