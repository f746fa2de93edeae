"""Predictions are read in batches of any size, and places say where a row lies."""

from collections import Counter
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noisystudent_core.errors import DataError
from noisystudent_core.pseudo_labels import predicted
from noisystudent_core.pseudo_labels.predicted import (
    IMAGE_ID,
    Excluded,
    column,
    groups,
    high_words,
    located,
    low_words,
    numbers,
    read_rows,
)
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import Artifact
from tests.pseudo_labels.test_select import Row, image_id, write_exclusions, write_predictions

IDS = st.lists(st.binary(min_size=16, max_size=16), unique=True)


@settings(deadline=None)
@given(IDS)
def test_words_of_ids_order_as_the_ids_do(ids: list[bytes]) -> None:
    found = numbers(
        pa.chunked_array([pa.array([b"\0" * 16, *ids], pa.binary(16))[1:], pa.array([], pa.binary(16))]), IMAGE_ID
    )
    assert column(found, pa.binary(16)).to_pylist() == ids
    order = np.lexsort((low_words(found), high_words(found)))
    assert [ids[place] for place in order] == sorted(ids)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=6), st.integers(1, 9), st.integers(1, 9))
def test_every_row_is_read_once_and_found_again(sizes: list[int], batch_rows: int, group_rows: int) -> None:
    rows = [Row(image_id(number), number % 5, number / 50) for number in range(sum(sizes))]
    starts = np.cumsum([0, *sizes])
    parts = [rows[start : start + size] for start, size in zip(starts, sizes, strict=False)]
    artifact = Artifact.open(write_predictions(parts))
    found = []
    with patch.object(predicted, "BATCH_ROWS", batch_rows), patch.object(predicted, "GROUP_ROWS", group_rows):
        for group in groups(artifact.manifest.parts):
            for batch, drops in read_rows(artifact, group):
                assert len(batch) <= batch_rows and not +drops
                part, row = located(batch.place, np.full(len(batch), group.first, np.int32), group.row_bits)
                found += zip(part.tolist(), row.tolist(), [image.tobytes() for image in batch.image_id], strict=True)
    assert found == [(p, r, row.image_id) for p, part in enumerate(parts) for r, row in enumerate(part)]


def test_excluded_ids_are_found_among_those_that_look_like_them() -> None:
    ids = np.frombuffer(b"".join(high + low for high in (b"a" * 8, b"b" * 8) for low in (b"c" * 8, b"d" * 8)), IMAGE_ID)
    excluded = Excluded.read(write_exclusions({b"a" * 8 + b"d" * 8: "evaluation_image", b"z" * 16: "repeated"}))
    drops: Counter[str] = Counter()
    assert excluded.find(ids, drops).tolist() == [1]
    assert drops == {"evaluation_image": 1}
    assert Excluded.read(None).find(ids, drops).tolist() == []


def test_a_part_of_another_length_is_refused() -> None:
    artifact = Artifact.open(write_predictions([[Row(image_id(1)), Row(image_id(2))]]))
    (group,) = groups([artifact.manifest.parts[0].model_copy(update={"num_rows": 3})])
    with pytest.raises(DataError, match="2 rows; the manifest lists 3"):
        list(read_rows(artifact, group))


def test_parts_of_a_bucket_are_read_in_order(memory_root: str) -> None:
    parts = [[Row(image_id(number), number % 3)] for number in range(30)]
    artifact = Artifact.open(write_predictions(parts))
    assert not Folder.at(artifact.url).is_local
    ((batch, _),) = read_rows(artifact, groups(artifact.manifest.parts)[0])
    assert batch.label.tolist() == [number % 3 for number in range(30)]
