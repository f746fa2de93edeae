"""A selection comes part by part in order, in memory or by way of the disk."""

from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest

from noisystudent_core.config import SelectConfig
from noisystudent_core.data import selected
from noisystudent_core.data.schemas import SELECTION, to_bytes
from noisystudent_core.data.selected import selected_images
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import publish_manifest, publish_part
from tests.selections import read_selection, rows_of_part

NUM_PARTS, NUM_ROWS = 23, 400


@pytest.fixture
def selection(memory_root: str) -> str:
    """Some rows of each part but the last, in order of ids that are drawn."""
    draw = np.random.default_rng(0)
    places = draw.permutation((NUM_PARTS - 1) * NUM_ROWS)[:3000]
    table = pa.table(
        {
            "image_id": pa.array([bytes([1]) * 16] * len(places), pa.binary(16)),
            "label": draw.integers(0, 5, len(places), np.int32),
            "confidence": draw.random(len(places), np.float32),
            "copies": draw.integers(1, 9, len(places), np.int32),
            "part": (places // NUM_ROWS).astype(np.int32),
            "row": (places % NUM_ROWS).astype(np.int32),
        }
    )
    stored = [
        publish_part(Folder.at(memory_root), f"{start}.parquet", to_bytes(table[start : start + 700], SELECTION), 700)
        for start in range(0, 2800, 700)
    ]
    publish_manifest(memory_root, SelectConfig(), {}, tuple(stored))
    return memory_root


@pytest.mark.parametrize("sorted_at_once", [7, 300, 10_000])
def test_each_part_has_its_rows_in_order(selection: str, sorted_at_once: int) -> None:
    table = read_selection(selection)
    with patch.object(selected, "SORTED_AT_ONCE", sorted_at_once):
        found = dict(selected_images(selection))
    assert list(found) == list(range(NUM_PARTS - 1))
    for index, rows in found.items():
        expected = rows_of_part(table, index)
        for name in ("row", "label", "confidence", "copies"):
            assert rows[name].tolist() == expected[name].to_pylist()
