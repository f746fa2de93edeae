"""What MLflow stores, made from plain values: parameters, metrics, data sets."""

import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tasks.mlflow_connection import without_secrets

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Metric

MAX_PARAM_CHARACTERS = 6000
MAX_KEY_CHARACTERS = 250
MAX_DIGEST_CHARACTERS = 36


@dataclass(frozen=True, kw_only=True)
class TrackedData:
    """A data set that a run reads: `digest` is its manifest's content digest, `role` e.g. "labelled"."""

    role: str
    name: str
    digest: str
    source: str
    num_rows: int


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings and lists, with dotted paths as overrides spell them; a plain list is one leaf."""
    children = list(value.items()) if isinstance(value, Mapping) else []
    if isinstance(value, (list, tuple)) and any(isinstance(item, (Mapping, list, tuple)) for item in value):
        children = list(enumerate(value))
    if not children and path:
        yield path, value
    for key, child in children:
        yield from leaves(child, f"{path}.{key}" if path else str(key))


def valid_key(key: str) -> str:
    """A key of the characters and the length that MLflow takes."""
    return re.sub(r"[^\w./\- ]", "_", key)[:MAX_KEY_CHARACTERS]


def shortened(text: str) -> str:
    """A parameter's text, cut to what MLflow stores, the cut said."""
    note = f"... ({len(text)} characters)"
    return text if len(text) <= MAX_PARAM_CHARACTERS else text[: MAX_PARAM_CHARACTERS - len(note)] + note


def to_metrics(metrics: Mapping[str, float], step: int) -> "list[Metric]":
    """Metrics at `step`. The timestamp is set here, once: MLflow stores a batch that is sent twice once."""
    from mlflow.entities import Metric

    now_ms = int(time.time() * 1000)
    return [Metric(valid_key(key), float(value), now_ms, step) for key, value in metrics.items()]


def to_dataset_input(data: TrackedData) -> "DatasetInput":
    """A data set by digest, its address without secrets."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = re.sub(r"\?.*", "", without_secrets(data.source))  # a signed address has its secret in the query
    dataset = Dataset(
        name=data.name,
        digest=data.digest[:MAX_DIGEST_CHARACTERS],
        source_type=urlsplit(source).scheme or "local",
        source=json.dumps({"uri": source}),
        profile=json.dumps({"num_rows": data.num_rows}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", data.role)])
