"""A selection in the order of its images: part by part, row by row, however many there are."""

import os
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from noisystudent_core.data.schemas import SELECTION, from_bytes
from noisystudent_core.storage.manifest import Artifact

SORTED_AT_ONCE = 2**22  # rows that are brought into order in memory
COLUMNS = ("part", "row", "label", "confidence", "copies")
RECORD = np.dtype([(name, np.float32 if name == "confidence" else np.int32) for name in COLUMNS])
Array = np.ndarray


def selected_images(url: str) -> Iterator[tuple[int, Array]]:
    """Each image part with a selected row, in order, and its selected rows, ascending.

    Rows are records of `row`, `label`, `copies` int32 and `confidence` float32. A selection is sorted by image id, so
    larger ones are put on disk first, sorted roughly, 20 bytes a row, in a file without a name (`TMPDIR`).
    """
    artifact = Artifact.open(url)
    parts = artifact.manifest.parts
    num_heaps = -(-artifact.manifest.num_rows // SORTED_AT_ONCE)
    tables = (from_bytes(artifact.read(part), SELECTION, f"{url}/{part.path}") for part in parts)
    records = (_records(table) for table in tables)
    if num_heaps > 1:
        with tempfile.TemporaryFile() as file:
            for heap in _heaps(records, num_heaps, file):
                yield from _by_part(heap)
    else:
        yield from _by_part(np.concatenate([*records]))


def _records(table: pa.Table) -> Array:
    records = np.empty(len(table), RECORD)
    for name in COLUMNS:
        records[name] = table[name].to_numpy()
    return records


def _by_part(records: Array) -> Iterator[tuple[int, Array]]:
    """Records in order, cut where the part changes."""
    key = records["part"].astype(np.int64) << 32 | records["row"]
    records = records[np.argsort(key)]
    parts, starts = np.unique(records["part"], return_index=True)
    for part, (start, stop) in zip(parts.tolist(), pairwise([*starts, len(records)]), strict=True):
        yield part, records[start:stop]


def _heaps(pieces: Iterator[Array], num_heaps: int, file: BinaryIO) -> Iterator[Array]:
    """The records in heaps by ranges of parts, in order; ids are hashes, so that any piece has of all parts."""
    written: list[Array] = []  # of each piece, where in the file its heaps begin, and the last one ends
    first = last = end = 0
    for records in pieces:
        if not written:
            first, last = int(records["part"].min()), int(records["part"].max())
        share = (records["part"].astype(np.int64) - first) * num_heaps // (last - first + 1)
        heap = np.clip(share, 0, num_heaps - 1).astype(np.uint16)
        file.write(records[np.argsort(heap, kind="stable")].tobytes())
        sizes = np.bincount(heap, minlength=num_heaps)
        written.append(end + RECORD.itemsize * np.concatenate([[0], sizes.cumsum()]))
        end += records.nbytes
    file.flush()
    for number in range(num_heaps):
        spans = (starts[number : number + 2].tolist() for starts in written)
        found = [os.pread(file.fileno(), stop - start, start) for start, stop in spans]
        yield np.frombuffer(b"".join(found), RECORD)
