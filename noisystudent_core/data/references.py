"""Image parts that refer to images in their source, a Parquet or tar file, instead of holding them."""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import merge_offset_ranges

from noisystudent_core.data.schemas import IMAGES, from_bytes
from noisystudent_core.errors import CorruptArtifactError
from noisystudent_core.storage.filesystem import open_url
from noisystudent_core.storage.listing import stamp_of

MAX_GAP, MAX_REQUEST = 2**16, 2**24  # bytes: of a bucket, what is read and thrown away, and what is read at once
WHERE = {  # null, all of them, where the source has no bytes for the row
    "uri": pa.string(),  # of the source's file
    "num_bytes": pa.int64(),  # of that file, as `stamp` when it was indexed
    "stamp": pa.string(),
    "start": pa.int64(),  # tar: offset; Parquet: row group
    "at": pa.int64(),  # tar: length; Parquet: row of the group
}
REFERENCES = pa.schema(
    [*(field for field in IMAGES if field.name != "image"), *(pa.field(name, kind) for name, kind in WHERE.items())]
)


def image_id(data: bytes) -> bytes:
    """An image's identity: BLAKE2b, 16 bytes, of its source's bytes."""
    return hashlib.blake2b(data, digest_size=16).digest()


def images_from_bytes(data: bytes, what: str, columns: Sequence[str]) -> pa.Table:
    """Columns of an image part; images that it refers to are read from where they lie.

    Raises `SchemaError` as `from_bytes` does, `CorruptArtifactError` naming a file that changed since it was indexed.
    """
    if "image" not in columns or not _refers(data):
        return from_bytes(data, IMAGES, what, list(columns))
    needed = [name for name in columns if name != "image"]
    table = from_bytes(data, REFERENCES, what, [*dict.fromkeys([*needed, "image_id", *WHERE])])
    images = pa.chunked_array(_images(table, what), pa.binary())
    return pa.table({name: images if name == "image" else table[name] for name in columns})


def _refers(data: bytes) -> bool:
    try:
        return "uri" in pq.read_schema(pa.BufferReader(data)).names
    except (pa.ArrowInvalid, OSError):  # `from_bytes` says what is wrong
        return False


def _images(table: pa.Table, what: str) -> list[pa.Array]:
    images = [b""] * table.num_rows
    uris = np.array(table["uri"].to_pylist(), object)
    for uri in sorted({uri for uri in uris if uri is not None}):
        rows = np.flatnonzero(uris == uri).tolist()
        found = _read(uri, table.take(rows))
        for row, data, identity in zip(rows, found, table["image_id"].take(rows).to_pylist(), strict=True):
            if image_id(data) != identity:
                raise CorruptArtifactError(
                    f"{uri}: changed since it was indexed: the image of row {row} of {what} is another; prepare the "
                    "source again"
                )
            images[row] = data
    return [pa.array(images, pa.binary())] if images else []


def _read(uri: str, rows: pa.Table) -> list[bytes]:
    """The images of some rows of one file, which must be as it was."""
    fs, path = open_url(uri)
    _check_unchanged(fs, path, uri, rows.slice(0, 1).to_pylist()[0])
    starts, at = rows["start"].to_pylist(), rows["at"].to_pylist()
    if not path.endswith(".parquet"):
        return _ranges(fs, path, starts, at)
    with fs.open(path, "rb") as stream:
        parquet = pq.ParquetFile(stream)
        column = next(name for name in ("image", "jpg", "png") if name in parquet.schema_arrow.names)
        groups = {group: parquet.read_row_group(group, columns=[column])[column] for group in sorted(set(starts))}
    values = (groups[group][row].as_py() for group, row in zip(starts, at, strict=True))
    return [(value["bytes"] if isinstance(value, dict) else value) or b"" for value in values]


def _ranges(fs: AbstractFileSystem, path: str, starts: list[int], lengths: list[int]) -> list[bytes]:
    if not isinstance(fs, LocalFileSystem):
        return _in_few_requests(fs, path, starts, lengths)
    found: list[bytes] = []
    with fs.open(path, "rb") as stream:
        for start, length in zip(starts, lengths, strict=True):
            stream.seek(start)
            data: Any = stream.read(length)
            found.append(data)
    return found


def _in_few_requests(fs: AbstractFileSystem, path: str, starts: list[int], lengths: list[int]) -> list[bytes]:
    """Neighbours come together, with what little lies between them."""
    wanted = {(start, start + length) for start, length in zip(starts, lengths, strict=True) if length}
    begins: list[int | None] = [begin for begin, _ in wanted]
    ends: list[int | None] = [end for _, end in wanted]
    paths, firsts, lasts = merge_offset_ranges([path] * len(wanted), begins, ends, MAX_GAP, MAX_REQUEST)
    blocks = fs.cat_ranges(paths, firsts, lasts, on_error="raise")

    def cut(start: int, length: int) -> bytes:
        block = bisect_right(firsts, start) - 1
        offset = start - firsts[block]
        return blocks[block][offset : offset + length]

    return [cut(start, length) if length else b"" for start, length in zip(starts, lengths, strict=True)]


def _check_unchanged(fs: AbstractFileSystem, path: str, uri: str, known: dict[str, object]) -> None:
    fs.invalidate_cache()
    try:
        entry = fs.info(path)
    except FileNotFoundError:
        raise CorruptArtifactError(f"{uri}: is gone since it was indexed; restore it, or prepare again") from None
    if (entry["size"], stamp_of(entry)) != (known["num_bytes"], known["stamp"]):
        raise CorruptArtifactError(
            f"{uri}: changed since it was indexed ({entry['size']} bytes of {_said(stamp_of(entry))}, then "
            f"{known['num_bytes']} of {_said(str(known['stamp']))}); prepare the source again, or restore the file"
        )


def _said(stamp: str) -> str:
    """A file's time as people write it; an etag as it is."""
    try:
        return datetime.fromtimestamp(float(stamp)).isoformat(" ", "milliseconds")
    except ValueError:
        return stamp
