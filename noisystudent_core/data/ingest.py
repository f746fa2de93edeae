"""From a source's files to rows of the `images` schema; every row is kept, a bad image with its reason."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from noisystudent_core.config.settings import IngestConfig
from noisystudent_core.data.images import decode_image
from noisystudent_core.data.parts import NUM_THREADS
from noisystudent_core.data.schemas import IMAGES
from noisystudent_core.errors import ImageError, LabelError, SchemaError, SourceError
from noisystudent_core.storage.sources import SourceFile


def ingest_file(file: SourceFile, config: IngestConfig) -> Iterator[pa.Table]:
    """Yield tables of the `images` schema, `images_per_part` rows each but the last, in the file's order.

    Raises `SourceError` for a file that is no Parquet, `SchemaError` for missing or mistyped columns, `LabelError`
    for a label outside 0..num_classes-1.
    """
    with file.fs.open(file.path, "rb") as stream, ThreadPoolExecutor(NUM_THREADS) as pool:
        with _naming(file):
            parquet = pq.ParquetFile(stream)
        columns = _columns(file, parquet.schema_arrow, config)
        start = 0
        for table in _chunks(file, parquet, columns, config.images_per_part):
            yield _rows(table, file, config, pool, start)
            start += table.num_rows


def image_id(data: bytes) -> bytes:
    """An image's identity: BLAKE2b, 16 bytes, of its source's bytes."""
    return hashlib.blake2b(data, digest_size=16).digest()


@contextmanager
def _naming(file: SourceFile) -> Iterator[None]:
    """Say which file is damaged; a failure of disk or network, known by its error number, stays what it is."""
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise SourceError(f"{file.path}: not a Parquet file, or damaged ({error}); copy it again") from None


def _columns(file: SourceFile, schema: pa.Schema, config: IngestConfig) -> list[str]:
    if "image" not in schema.names:
        raise SchemaError(f"{file.path}: no column 'image'; it has {', '.join(schema.names)}")
    kind = schema.field("image").type
    in_struct = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    if not in_struct and not _is_binary(kind):
        raise SchemaError(f"{file.path}: column 'image' is {kind}; must be binary or struct<bytes, path>")
    if config.num_classes is None:
        return ["image"]
    if "label" not in schema.names:
        raise SchemaError(f"{file.path}: no column 'label'; it has {', '.join(schema.names)}")
    if not pa.types.is_integer(schema.field("label").type):
        found = schema.field("label").type
        raise LabelError(f"{file.path}: labels are {found}; must be integers from 0 to {config.num_classes - 1}")
    return ["image", "label"]


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _chunks(file: SourceFile, parquet: pq.ParquetFile, columns: list[str], size: int) -> Iterator[pa.Table]:
    """Tables of exactly `size` rows, whatever the file's row groups, and a shorter last one."""
    waiting: list[pa.RecordBatch] = []
    with _naming(file):
        for batch in parquet.iter_batches(batch_size=min(size, 1024), columns=columns):
            waiting.append(batch)
            while sum(map(len, waiting)) >= size:
                table = pa.Table.from_batches(waiting)
                yield table.slice(0, size)
                waiting = table.slice(size).to_batches()
    if sum(map(len, waiting)):
        yield pa.Table.from_batches(waiting)


def _rows(table: pa.Table, file: SourceFile, config: IngestConfig, pool: ThreadPoolExecutor, start: int) -> pa.Table:
    images, names = _bytes_and_names(table, file, start)
    checks = list(pool.map(lambda data: _check(data, config.max_pixels), images))
    return pa.table(
        {
            "image_id": pa.array(map(image_id, images), IMAGES.field("image_id").type),
            "image": pa.array(images, pa.binary()),
            "label": _labels(table, file, config, start),
            "source": names,
            "height": [check[0] for check in checks],
            "width": [check[1] for check in checks],
            "reason": [check[2] for check in checks],
        },
        schema=IMAGES,
    )


def _bytes_and_names(table: pa.Table, file: SourceFile, start: int) -> tuple[list[bytes], list[str]]:
    rows: list[Any] = table["image"].to_pylist()
    rows = [row if isinstance(row, dict) else {"bytes": row} for row in rows]
    names = [row.get("path") or f"{file.name}:{start + i}" for i, row in enumerate(rows)]
    return [row["bytes"] or b"" for row in rows], names


def _labels(table: pa.Table, file: SourceFile, config: IngestConfig, start: int) -> pa.Array:
    if config.num_classes is None:
        return pa.nulls(table.num_rows, pa.int32())
    for row, label in enumerate(table["label"].to_pylist(), start):
        if label is None or not 0 <= label < config.num_classes:
            raise LabelError(
                f"{file.path}: row {row} has label {label}; must be 0 to {config.num_classes - 1} "
                f"(num_classes={config.num_classes})"
            )
    return table["label"].combine_chunks().cast(pa.int32())


def _check(data: bytes, max_pixels: int) -> tuple[int | None, int | None, str | None]:
    """Height, width and None of a good image; None, None and the reason of a bad one."""
    try:
        image = decode_image(data, max_pixels=max_pixels)
    except ImageError as error:
        return None, None, error.reason
    return image.shape[1], image.shape[2], None
