"""Rows of image parts kept, shuffled and cut into parts anew, in memory that does not grow with them.

The order of a shuffle is that of seeded hashes. Rows go to buckets by ranges of the hash, in pieces on the root, which
an interrupted stage finds again; each bucket is then sorted by itself. Neither buckets nor pieces show in the result.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from noisystudent_core.config.data import PrepareConfig
from noisystudent_core.data.schemas import from_bytes, to_bytes
from noisystudent_core.data.splits import hashed
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import Part, publish_part
from noisystudent_core.storage.stage import Place

BUCKET_BYTES = 64_000_000  # that are sorted at once
WINDOW_BYTES = 128_000_000  # of rows that are dealt out to buckets at once
ROWS = 1024  # read at a time: bounds memory on large parts
HASH = "hash"

Keep = Callable[[pa.Table], pa.Table]  # a table of image rows to those of them that are wanted


def rearranged(config: PrepareConfig, place: Place, parts: list[Part], keep: Keep) -> Iterator[tuple[Part, pa.Table]]:
    """Publish the rows that `keep` leaves of `parts` as parts of the artifact's own, and yield each with its rows."""
    tables = (keep(table) for part in parts for table in _tables(place.folder, part))
    if config.shuffle:
        num_buckets = -(-sum(part.num_bytes for part in parts) // BUCKET_BYTES)
        tables = _shuffled(tables, max(1, num_buckets), config.seed, place.scratch)
    for number, table in enumerate(_cut(tables, config.ingest.images_per_part, config.ingest.bytes_per_part)):
        data = to_bytes(table, table.schema)
        yield publish_part(place.folder, f"part-{number:05d}.parquet", data, table.num_rows), table
    place.scratch.remove_all()


def _tables(folder: Folder, part: Part) -> Iterator[pa.Table]:
    place = folder / part.path
    with place.fs.open(place.path, "rb") as file:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=ROWS):
            yield pa.Table.from_batches([batch])


def _cut(tables: Iterable[pa.Table], max_rows: int, max_bytes: int) -> Iterator[pa.Table]:
    """Tables as long as both limits allow; a single larger row is a table of its own."""
    waiting, num_rows, num_bytes = list[pa.Table](), 0, 0
    for table in tables:
        start = 0
        for row, size in enumerate(_sizes(table)):
            if num_rows and (num_rows == max_rows or num_bytes + size > max_bytes):
                yield pa.concat_tables([*waiting, table.slice(start, row - start)]).combine_chunks()
                waiting, num_rows, num_bytes, start = [], 0, 0, row
            num_rows, num_bytes = num_rows + 1, num_bytes + size
        waiting.append(table.slice(start))
    if num_rows:
        yield pa.concat_tables(waiting).combine_chunks()


def _sizes(table: pa.Table) -> list[int]:
    """Bytes of each row's image; references to images count as none."""
    if "image" not in table.column_names:
        return [0] * table.num_rows
    return pc.call_function("binary_length", [table["image"]]).fill_null(0).to_pylist()


def _shuffled(tables: Iterable[pa.Table], num_buckets: int, seed: int, scratch: Folder) -> Iterator[pa.Table]:
    """The same rows in the order of their hashes, then of their names in the source."""
    hashes = (table.append_column(HASH, _hashes(table, seed)) for table in tables)
    for bucket in dealt_out(hashes, num_buckets, scratch):
        yield from _sorted(bucket)


def dealt_out(tables: Iterable[pa.Table], num_buckets: int, scratch: Folder) -> Iterator[list[pa.Table]]:
    """The same rows, bucket by bucket, by ranges of the column `HASH`; one bucket is kept in memory."""
    if num_buckets == 1:
        yield list(tables)
        return
    num_windows = 0
    for number, window in enumerate(_windows(tables)):
        _deal_out(window, number, num_buckets, scratch)
        num_windows += 1
    for bucket in range(num_buckets):
        yield [_read(scratch, _piece(window, bucket)) for window in range(num_windows)]


def _hashes(table: pa.Table, seed: int) -> pa.Array:
    return pa.array([hashed(identity, seed) for identity in table["image_id"].to_pylist()], pa.binary(16))


def _windows(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(waited.nbytes for waited in waiting) >= WINDOW_BYTES:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _deal_out(window: pa.Table, number: int, num_buckets: int, scratch: Folder) -> None:
    """Publish a window's rows, a piece a bucket; what is there from before is left as it is."""
    there = scratch.sizes()
    if all(_piece(number, bucket) in there for bucket in range(num_buckets)):
        return
    firsts = [int.from_bytes(value[:4], "big") for value in window[HASH].to_pylist()]
    buckets = np.array([first * num_buckets >> 32 for first in firsts])
    for bucket in range(num_buckets):
        rows = window.filter(pa.array(buckets == bucket))
        scratch.publish(_piece(number, bucket), to_bytes(rows, rows.schema))


def _piece(window: int, bucket: int) -> str:
    return f"{window:06d}-{bucket:06d}.parquet"


def _read(scratch: Folder, name: str) -> pa.Table:
    data = scratch.read(name)
    schema = pq.read_schema(pa.BufferReader(data))
    return from_bytes(data, schema, name)


def _sorted(tables: list[pa.Table]) -> Iterator[pa.Table]:
    table = pa.concat_tables(tables).combine_chunks() if tables else None
    if table is not None and table.num_rows:
        yield table.sort_by([(HASH, "ascending"), ("source", "ascending")]).drop_columns([HASH])
