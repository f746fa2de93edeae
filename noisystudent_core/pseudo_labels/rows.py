"""Rows of the `predictions` schema, from what a net said of batches of images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from noisystudent_core.data.schemas import PREDICTIONS, distributions


@dataclass(frozen=True)
class Labelled:
    """What a net said of some images: label int32 [N], confidence float32 [N], probabilities float16 [N, C] or None.

    `reasons` says which of them are no images; what is said of those means nothing.
    """

    label: Tensor
    confidence: Tensor
    probabilities: Tensor | None
    num_classes: int
    reasons: list[str | None]


def labelled(probabilities: Tensor, reasons: list[str | None], keep: Literal["label", "distribution"]) -> Labelled:
    """Of probabilities float32 [N, C], what is to be kept."""
    confidence, label = probabilities.max(1)
    whole = probabilities.to(torch.float16) if keep == "distribution" else None
    return Labelled(label.to(torch.int32), confidence, whole, probabilities.shape[1], reasons)


def predictions(image_ids: pa.ChunkedArray, found: Sequence[Labelled]) -> pa.Table:
    """Rows of the `predictions` schema, in order: ids [N] and what was said of them, batch by batch, at least one.

    An undecodable image has a null label and its reason.
    """
    reasons = [reason for batch in found for reason in batch.reasons]
    bad = np.array([reason is not None for reason in reasons], bool)
    columns = {
        "image_id": image_ids,
        "label": pa.array(torch.cat([batch.label for batch in found]).numpy(), mask=bad),
        "confidence": pa.array(torch.cat([batch.confidence for batch in found]).numpy(), mask=bad),
        "reason": pa.array(reasons, pa.string()),
    }
    probabilities = [batch.probabilities for batch in found if batch.probabilities is not None]
    if not probabilities:
        return pa.table(columns, schema=PREDICTIONS)
    num_classes = found[0].num_classes
    flat = pa.array(torch.cat(probabilities).flatten().numpy())
    columns["probabilities"] = pa.FixedSizeListArray.from_arrays(flat, num_classes)
    return pa.table(columns, schema=distributions(num_classes))
