"""Rows on this machine's disk, in buckets by the leading bits of the image id: more of them than memory holds."""

import os
import tempfile
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from threading import Lock

import numpy as np

from noisystudent_core.errors import RootError
from noisystudent_core.pseudo_labels.predicted import IMAGE_ID, Array, Rows

BUCKET_ROWS = 2**21  # that a bucket is to hold at most; memory goes by it
MAX_BITS = 16
MOST_VIEWS = 1024  # that one call writes
DTYPES = (IMAGE_ID, np.dtype(np.int32), np.dtype(np.float32), np.dtype(np.uint32))  # a row's columns
ROW_BYTES = sum(dtype.itemsize for dtype in DTYPES)


@dataclass(frozen=True, eq=False)
class _Run:
    """Rows written together, bucket after bucket."""

    offset: int  # in the file
    starts: list[int]  # the first row of each bucket, and the end of the last
    first: int  # part of the group that the rows came from


@dataclass(frozen=True, eq=False)
class InBuckets:
    """Rows in order of bucket."""

    rows: Rows
    starts: Array  # int64 [buckets + 1]: the first row of each bucket, and the end of the last


class Buckets:
    """Appended rows, read back bucket by bucket; ids in order lie in buckets in order.

    The file has no name: it is gone with the process, however that ends. It takes 28 bytes a row, in the folder of
    temporary files (`TMPDIR`). `add` and `read` may be called by several threads. How many buckets there are follows
    from `num_rows` alone.
    """

    def __init__(self, num_rows: int) -> None:
        self.bits = min(MAX_BITS, max(0, (num_rows - 1) // BUCKET_ROWS).bit_length())
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._runs: list[_Run] = []
        self._num_bytes, self._lock = 0, Lock()
        self._dropped: dict[int, Array] = {}  # bucket -> bits, one a row as it was added

    def __enter__(self) -> "Buckets":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return 2**self.bits

    def sorted(self, rows: Rows, which: Array) -> "InBuckets":
        """Some rows, by their numbers, in order of bucket."""
        keys = self._keys(rows.image_id)[which]
        starts = np.concatenate([[0], np.bincount(keys, minlength=len(self)).cumsum()])
        return InBuckets(rows.take(which[np.argsort(keys, kind="stable")]), starts)

    def add(self, pieces: "Sequence[InBuckets]", first: int) -> None:
        """Append rows of a group of parts from the `first` on; raises `RootError` where the disk cannot take them."""
        columns = list(zip(*([_raw(column) for column in _columns(piece.rows)] for piece in pieces), strict=True))
        starts = [piece.starts.tolist() for piece in pieces]
        data = [
            raw[ends[bucket] * dtype.itemsize : ends[bucket + 1] * dtype.itemsize]
            for bucket in range(len(self))
            for dtype, raws in zip(DTYPES, columns, strict=True)
            for raw, ends in zip(raws, starts, strict=True)
        ]
        with self._lock:
            offset, self._num_bytes = self._num_bytes, self._num_bytes + sum(map(len, data))
            self._runs.append(_Run(offset, np.sum(starts, axis=0).tolist(), first))
        self._write(deque(data), offset)

    def read(self, bucket: int) -> tuple[Rows, Array]:
        """A bucket's rows, dropped ones with confidence 0; and the first part int32 [N] of the group of each."""
        sizes = [run.starts[bucket + 1] - run.starts[bucket] for run in self._runs]
        rows = Rows(*(np.empty(sum(sizes), dtype) for dtype in DTYPES))
        columns, start = [_raw(column) for column in _columns(rows)], 0
        for run, size in zip(self._runs, sizes, strict=True):
            if size:
                stop = start + size
                into = [raw[start * t.itemsize : stop * t.itemsize] for raw, t in zip(columns, DTYPES, strict=True)]
                found = os.preadv(self._file.fileno(), into, run.offset + ROW_BYTES * run.starts[bucket])
                assert found == size * ROW_BYTES
                start = stop
        firsts = np.repeat(np.array([run.first for run in self._runs], np.int32), sizes)
        if bucket in self._dropped:
            rows.confidence[np.unpackbits(self._dropped[bucket], count=len(rows)).view(bool)] = 0
        return rows, firsts

    def drop(self, bucket: int, which: Array, num_rows: int) -> None:
        """Have some of a bucket's rows, by their numbers, read with confidence 0 from now on; once a bucket."""
        assert bucket not in self._dropped
        dropped = np.zeros(num_rows, bool)
        dropped[which] = True
        self._dropped[bucket] = np.packbits(dropped)

    def _keys(self, image_id: Array) -> Array:
        """The bucket of each id, in the smallest type, which is sorted fastest."""
        if self.bits == 0:
            return np.zeros(len(image_id), np.uint8)
        if self.bits <= 8:
            return image_id.view(np.uint8)[::16] >> np.uint8(8 - self.bits)
        return image_id.view(">u2")[::8].astype(np.uint16) >> np.uint16(16 - self.bits)

    def _write(self, data: deque[memoryview], offset: int) -> None:
        try:
            while data:
                written = os.pwritev(self._file.fileno(), list(islice(data, MOST_VIEWS)), offset)
                offset += written
                while data and written >= len(data[0]):
                    written -= len(data.popleft())
                if written:
                    data[0] = data[0][written:]
        except OSError as error:
            raise RootError(
                f"{tempfile.gettempdir()}: takes no more of the {self._num_bytes:,} bytes of rows above the threshold "
                f"({error.strerror}); name a folder with room, {ROW_BYTES} bytes a row, in TMPDIR"
            ) from error


def _columns(rows: Rows) -> tuple[Array, ...]:
    return rows.image_id, rows.label, rows.confidence, rows.place


def _raw(column: Array) -> memoryview:
    return column.view(np.uint8).data
