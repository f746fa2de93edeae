"""The table of thresholds against counts made by hand."""

import math
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from noisystudent_core.config.data import PrepareConfig
from noisystudent_core.config.settings import PredictConfig, StageSettings
from noisystudent_core.data.schemas import IMAGES, PREDICTIONS, to_bytes
from noisystudent_core.errors import DataError, LabelError
from noisystudent_core.pseudo_labels.select import select
from noisystudent_core.pseudo_labels.thresholds import THRESHOLDS, count_confidences, threshold_table
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import publish_manifest, publish_part

IDS = [number.to_bytes(16, "big") for number in range(6)]


def write(folder: Path, config: StageSettings, schema: pa.Schema, columns: dict[str, Sequence[object]]) -> str:
    """An artifact of two parts, the first of two rows."""
    nothing = [None] * len(next(iter(columns.values())))
    table = pa.table({name: columns.get(name, nothing) for name in schema.names})
    parts = [
        publish_part(Folder.at(str(folder)), f"{number}.parquet", to_bytes(half, schema), len(half))
        for number, half in enumerate([table[:2], table[2:]])
    ]
    publish_manifest(str(folder), config, {}, tuple(parts))
    return str(folder)


@pytest.fixture
def predictions(tmp_path: Path) -> str:
    columns = {
        "image_id": IDS,
        "label": [0, 1, 1, 2, None, 0],
        "confidence": pa.array([0.95, 0.3, 0.5, 0.7, None, math.nan], pa.float32()),
        "reason": [None, None, None, None, "truncated", None],
    }
    return write(tmp_path / "predictions", PredictConfig(), PREDICTIONS, columns)


@pytest.fixture
def images(tmp_path: Path) -> str:
    return write(tmp_path / "images", PrepareConfig(), IMAGES, {"image_id": IDS, "label": [0, 1, 2, 2, 0, 0]})


def test_the_table_counts_what_is_kept_and_what_is_right(predictions: str, images: str) -> None:
    rows = {row["threshold"]: row for row in threshold_table(predictions, predictions, images)}
    assert list(rows) == list(THRESHOLDS)
    assert rows[0.3] == {
        "threshold": 0.3,
        "num_kept": 3,
        "kept_share": 0.75,
        "num_classes_kept": 3,
        "validation_kept_share": 0.75,
        "validation_precision": 2 / 3,
    }
    assert rows[0.0]["validation_precision"] == 0.75
    assert rows[0.9]["num_kept"] == 1
    assert rows[0.99]["validation_precision"] is None


def test_a_histogram_gives_the_same_table(predictions: str, images: str) -> None:
    histogram = count_confidences(predictions, THRESHOLDS)
    assert threshold_table(histogram, predictions, images) == threshold_table(predictions, predictions, images)


def test_the_selection_has_the_table_with_its_own_threshold(predictions: str, images: str, tmp_path: Path) -> None:
    manifest = select(
        predictions,
        images,
        str(tmp_path / "selection"),
        threshold=0.42,
        num_images_per_class=2,
        seed=0,
        validation_predictions=predictions,
        validation_images=images,
    )
    rows = manifest.facts["thresholds"]
    assert [row["threshold"] for row in rows] == sorted({*THRESHOLDS, 0.42})
    assert rows == threshold_table(predictions, predictions, images, (*THRESHOLDS, 0.42))


def test_images_without_labels_judge_nothing(predictions: str, tmp_path: Path) -> None:
    unlabelled = write(tmp_path / "unlabelled", PrepareConfig(), IMAGES, {"image_id": IDS})
    with pytest.raises(LabelError, match="2 images have no label"):
        threshold_table(predictions, predictions, unlabelled)


def test_other_images_are_refused(predictions: str, tmp_path: Path) -> None:
    fewer = write(tmp_path / "fewer", PrepareConfig(), IMAGES, {"image_id": IDS[:5], "label": [0] * 5})
    with pytest.raises(DataError, match="parts must match"):
        threshold_table(predictions, predictions, fewer)
