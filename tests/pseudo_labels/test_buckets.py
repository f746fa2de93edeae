"""Rows come back from the disk, in buckets by id, whoever wrote them in whatever pieces."""

import os
from concurrent.futures import ThreadPoolExecutor
from errno import ENOSPC
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from noisystudent_core.errors import RootError
from noisystudent_core.pseudo_labels import buckets as module
from noisystudent_core.pseudo_labels.buckets import Buckets
from noisystudent_core.pseudo_labels.predicted import IMAGE_ID, Rows, high_words


def rows_of(num_rows: int, seed: int) -> Rows:
    draw = np.random.default_rng(seed)
    return Rows(
        np.frombuffer(draw.bytes(16 * num_rows), IMAGE_ID),
        draw.integers(0, 9, num_rows, np.int32),
        draw.random(num_rows, np.float32),
        draw.integers(0, 2**32, num_rows, np.uint32),
    )


def records(rows: Rows, firsts: np.ndarray) -> list[tuple[bytes, int, float, int, int]]:
    ids = [image_id.tobytes() for image_id in rows.image_id]
    columns = rows.label, rows.confidence, rows.place, firsts
    return list(zip(ids, *(column.tolist() for column in columns), strict=True))


@pytest.mark.parametrize("bits", [0, 3, 9])
def test_rows_come_back_in_buckets_by_id(bits: int) -> None:
    pieces = [rows_of(500, seed) for seed in range(12)]
    with patch.object(module, "BUCKET_ROWS", 2), Buckets(2 * 2**bits) as buckets, ThreadPoolExecutor(4) as pool:
        assert len(buckets) == 2**bits

        def add(number: int) -> None:
            some = [buckets.sorted(piece, np.arange(0, 500, 2)) for piece in pieces[number : number + 3]]
            buckets.add(some, first=number)

        list(pool.map(add, range(0, 12, 3)))
        found = [buckets.read(bucket) for bucket in range(len(buckets))]
    for bucket, (rows, _) in enumerate(found):
        assert (high_words(rows.image_id) >> np.uint64(64 - bits) == bucket).all() or not bits
    even = [(piece.take(np.arange(0, 500, 2)), np.full(250, 3 * (number // 3))) for number, piece in enumerate(pieces)]
    there, written = (sorted(row for some in both for row in records(*some)) for both in (found, even))
    assert there == written


def test_dropped_rows_have_no_confidence_any_more() -> None:
    rows = rows_of(20, 0)
    with Buckets(20) as buckets:
        buckets.add([buckets.sorted(rows, np.arange(20))], first=0)
        buckets.drop(0, np.array([3, 17]), 20)
        kept, _ = buckets.read(0)
    expected = rows.confidence.copy()
    expected[[3, 17]] = 0
    assert kept.confidence.tolist() == expected.tolist()
    assert kept.label.tolist() == rows.label.tolist()


def test_nothing_is_left_on_disk_and_a_full_one_is_named(tmp_path: Path) -> None:
    with patch("tempfile.tempdir", str(tmp_path)), Buckets(20) as buckets:
        piece = buckets.sorted(rows_of(20, 0), np.arange(20))
        buckets.add([piece], first=0)
        assert list(tmp_path.iterdir()) == []
        with (
            patch("os.pwritev", side_effect=OSError(ENOSPC, os.strerror(ENOSPC))),
            pytest.raises(RootError, match=f"{tmp_path}: takes no more.*No space left.*TMPDIR"),
        ):
            buckets.add([piece], first=0)


def test_a_write_that_stops_half_way_is_taken_up_again() -> None:
    rows, pwritev = rows_of(20, 0), os.pwritev

    def some(file: int, data: list[memoryview], offset: int) -> int:
        return pwritev(file, [data[0][: len(data[0]) // 2 or 1]], offset)

    with Buckets(20) as buckets:
        with patch("os.pwritev", some):
            buckets.add([buckets.sorted(rows, np.arange(20))], first=7)
        assert records(*buckets.read(0)) == records(rows, np.full(20, 7))
