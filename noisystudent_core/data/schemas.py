"""The columns of every artifact, and the one way to write and read its Parquet parts."""

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from noisystudent_core.errors import SchemaError

IMAGE_ID = pa.binary(16)  # BLAKE2b of the source's bytes, before any re-encoding

IMAGES = pa.schema(
    {
        "image_id": IMAGE_ID,
        "image": pa.binary(),
        "label": pa.int32(),  # null: unlabelled
        "source": pa.string(),
        "height": pa.int32(),  # null, as width, where the bytes are no image; `reason` says why
        "width": pa.int32(),
        "reason": pa.string(),
    }
)
PREDICTIONS = pa.schema({"image_id": IMAGE_ID, "label": pa.int32(), "confidence": pa.float32(), "reason": pa.string()})
EXCLUSIONS = pa.schema({"image_id": IMAGE_ID, "reason": pa.string()})
NEAR_EXCLUSIONS = EXCLUSIONS.append(pa.field("resembles", IMAGE_ID)).append(pa.field("distance", pa.int32()))  # in bits
FINGERPRINTS = pa.schema({"image_id": IMAGE_ID, "hash": pa.uint64(), "reason": pa.string()})  # no hash, no reason: flat
INSPECTIONS = pa.schema(
    {
        "image_id": IMAGE_ID,
        "label": pa.int32(),  # null: unlabelled
        "source": pa.string(),
        "height": pa.int32(),  # upright; null, as width, format and mode, where `reason` says why
        "width": pa.int32(),
        "num_bytes": pa.int64(),
        "format": pa.string(),  # as Pillow calls it
        "mode": pa.string(),  # likewise
        "hash": pa.uint64(),  # null where nothing is to be seen
        "reason": pa.string(),
    }
)
SELECTION = pa.schema(
    {
        "image_id": IMAGE_ID,
        "label": pa.int32(),
        "confidence": pa.float32(),
        "copies": pa.int32(),
        "part": pa.int32(),  # index among the parts of the images' manifest
        "row": pa.int32(),
    }
)
# what a student needs of an image: the selector's label, and how often a pass shows it
SELECTED_IMAGES = pa.schema([*IMAGES, SELECTION.field("confidence"), SELECTION.field("copies")])
EVALUATIONS = pa.schema(
    {
        "model": pa.string(),
        "benchmark": pa.string(),
        "metric": pa.string(),
        "value": pa.float64(),
        "num_images": pa.int64(),
    }
)
PROBABILITIES = "probabilities.list.element"  # as Parquet calls the column
# how predictions and selections are encoded: hundreds of millions of rows whose ids and confidences do not compress;
# trying to would take longer than all else that selection does
SPARE: dict[str, Any] = {
    "compression": {PROBABILITIES: "zstd"},
    "use_dictionary": [PROBABILITIES, "copies", "part", "row"],
    "write_statistics": False,
}
PIXELS = pa.schema({"label": pa.int32(), "pixels": pa.binary()})  # uint8 [3, S, S], or frames [T, 3, S, S]
HISTORY = pa.schema({"step": pa.int64(), "metric": pa.string(), "value": pa.float64()})


def distributions(num_classes: int) -> pa.Schema:
    """Predictions that keep the whole distribution over `num_classes` classes."""
    return PREDICTIONS.append(pa.field("probabilities", pa.list_(pa.float16(), num_classes)))


def to_bytes(table: pa.Table, schema: pa.Schema) -> bytes:
    """Encode a table of `schema`; equal tables give equal bytes."""
    sink = io.BytesIO()
    how: dict[str, Any] = SPARE if "confidence" in schema.names else {"compression": "zstd"}
    pq.write_table(table.cast(schema).replace_schema_metadata(None), sink, store_schema=True, **how)
    return sink.getvalue()


def from_bytes(
    data: bytes, schema: pa.Schema, what: str, columns: list[str] | None = None, *, use_threads: bool = True
) -> pa.Table:
    """Decode a part; raises `SchemaError` naming the column that is missing or of another type."""
    try:
        table = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False).read(columns, use_threads=use_threads)
    except (pa.ArrowInvalid, OSError) as error:
        raise SchemaError(f"{what}: not a Parquet file ({error}); delete it to have it made again") from None
    if table.schema.equals(schema):
        return table
    for name in columns or schema.names:
        if name not in table.column_names:
            raise SchemaError(f"{what}: no column {name!r}; it has {', '.join(table.column_names)}")
        if not table.schema.field(name).type.equals(schema.field(name).type):
            found, wanted = table.schema.field(name).type, schema.field(name).type
            raise SchemaError(f"{what}: column {name!r} is {found}; must be {wanted}")
    return table


def read_column(data: bytes, name: str, what: str) -> pa.ChunkedArray:
    """One column of a part, whatever else is in it; raises `SchemaError` where the part has none of that name."""
    try:
        return pq.ParquetFile(pa.BufferReader(data)).read([name])[name]
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        raise SchemaError(f"{what}: no column {name!r} to read ({error}); delete it to have it made again") from None
