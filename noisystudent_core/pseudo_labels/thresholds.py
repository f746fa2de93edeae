"""What each confidence threshold would keep, and how right the kept pseudo labels are."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from noisystudent_core.data.schemas import IMAGES, from_bytes
from noisystudent_core.errors import LabelError
from noisystudent_core.pseudo_labels.histogram import Array, ConfidenceHistogram
from noisystudent_core.pseudo_labels.predicted import PLACE_BITS, Group, check_aligned, groups, read_rows
from noisystudent_core.storage.manifest import Artifact

THRESHOLDS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


def threshold_table(
    unlabelled: str | ConfidenceHistogram,
    validation_predictions: str,
    validation_images: str,
    thresholds: Sequence[float] = THRESHOLDS,
) -> list[dict[str, Any]]:
    """Tell, a row per threshold, what it keeps of the unlabelled images and how right it is on the validation images.

    `unlabelled`: the address of predictions, or their histogram with the thresholds among its edges. Shares are of the
    images with a label and a finite confidence. `validation_precision` is the share of the validation images above the
    threshold whose predicted label is theirs; None where there are none. Raises `LabelError` for a validation image
    without a label, `DataError` where predictions and images do not match.
    """
    counted = count_confidences(unlabelled, thresholds) if isinstance(unlabelled, str) else unlabelled
    judged = _count_right(Artifact.open(validation_predictions), Artifact.open(validation_images), thresholds)
    return [_row(threshold, counted, judged) for threshold in sorted(set(thresholds))]


def count_confidences(predictions: str, thresholds: Sequence[float]) -> ConfidenceHistogram:
    """Histogram of the predictions at this address, with `thresholds` as its edges."""
    artifact = Artifact.open(predictions)
    histogram = ConfidenceHistogram(thresholds)
    for group in groups(artifact.manifest.parts):
        for rows, _ in read_rows(artifact, group):
            histogram.add(rows.label, rows.confidence)
    return histogram


def _row(threshold: float, counted: ConfidenceHistogram, judged: ConfidenceHistogram) -> dict[str, Any]:
    kept_C = counted.num_above(threshold)
    wrong, right = judged.num_above(threshold).tolist()
    return {
        "threshold": float(threshold),
        "num_kept": int(kept_C.sum()),
        "kept_share": _share(kept_C.sum(), counted.counts_CB.sum()),
        "num_classes_kept": int((kept_C > 0).sum()),
        "validation_kept_share": _share(wrong + right, judged.counts_CB.sum()),
        "validation_precision": _share(right, wrong + right),
    }


def _count_right(predictions: Artifact, images: Artifact, thresholds: Sequence[float]) -> ConfidenceHistogram:
    """Histogram of two classes: wrong (0) and right (1) pseudo labels."""
    check_aligned(predictions, images)
    histogram = ConfidenceHistogram(thresholds, num_classes=2)
    for index, part in enumerate(predictions.manifest.parts):
        label = _labels(images, index)
        for rows, _ in read_rows(predictions, Group(index, [part], PLACE_BITS)):
            histogram.add((rows.label == label[rows.place]).astype(np.int32), rows.confidence)
    return histogram


def _labels(images: Artifact, part: int) -> Array:
    where = images.manifest.parts[part]
    what = f"{images.url}/{where.path}"
    label = from_bytes(images.read(where), IMAGES, what, ["label"])["label"]
    if label.null_count:
        raise LabelError(f"{what}: {label.null_count} images have no label; prepare the source as a labelled one")
    return label.to_numpy()


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
