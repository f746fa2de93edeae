"""Parquet with images in it, as Hugging Face's data sets have them, or with addresses of images."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from noisystudent_core.data.sources.samples import Label, Place, Sample, Samples, open_file, printable
from noisystudent_core.errors import LabelError, SchemaError, SourceError
from noisystudent_core.storage.listing import KINDS, kind_of
from noisystudent_core.storage.sources import SourceFile

IMAGE_COLUMNS = ("image", "jpg", "png")  # binary, or a struct with the field `bytes`
ADDRESS_COLUMNS = ("image", "uri", "path")  # text
ENDINGS = ", ".join(suffix for kind, suffixes in KINDS.items() if kind != "image" for suffix in suffixes)
ROWS = 256  # read at a time: bounds memory on large images


def has_addresses(file: SourceFile) -> bool:
    """Whether the file is a manifest of addresses, without images of its own."""
    schema = _schema(file)
    if any(name in schema.names and _holds_bytes(schema.field(name).type) for name in IMAGE_COLUMNS):
        return False
    return any(name in schema.names and _is_text(schema.field(name).type) for name in ADDRESS_COLUMNS)


def read(file: SourceFile, *, with_labels: bool) -> Samples:
    """Every row in order; raises `SourceError` for a file that is no Parquet, `SchemaError` for missing columns."""
    with open_file(file) as stream:
        with naming(file):
            parquet = pq.ParquetFile(stream)
        image = image_column(file, parquet.schema_arrow)
        columns = [image, *_label_column(file, parquet.schema_arrow, with_labels)]
        row = 0
        for group, table in _tables(file, parquet, columns):
            first = row
            for data, label in zip(*_columns_of(table, image), strict=True):
                stored = data if isinstance(data, dict) else {"bytes": data}
                name = printable(stored.get("path") or f"{file.name}:{row}")
                yield Sample(stored["bytes"] or b"", label, name, None, Place(group[0], group[1] + row - first))
                row += 1


def read_addresses(file: SourceFile, *, with_labels: bool) -> Iterator[tuple[str, Label]]:
    """(address, label) of every row of a manifest."""
    with open_file(file) as stream:
        with naming(file):
            parquet = pq.ParquetFile(stream)
        names = parquet.schema_arrow.names
        address = next(name for name in ADDRESS_COLUMNS if name in names)
        columns = [address, *_label_column(file, parquet.schema_arrow, with_labels)]
        for _, table in _tables(file, parquet, columns):
            for uri, label in zip(*_columns_of(table, address), strict=True):
                yield uri or "", label


def class_names(file: SourceFile) -> tuple[str, ...] | None:
    """Names of the classes, in the labels' order, that Hugging Face keeps in the schema's metadata."""
    described = json.loads((_schema(file).metadata or {}).get(b"huggingface", b"{}"))
    label = described.get("info", {}).get("features", {}).get("label", {})
    return tuple(label["names"]) if label.get("_type") == "ClassLabel" and "names" in label else None


def labels(file: SourceFile) -> Iterator[Label]:
    """The label of every row; reads that column alone, and nothing where it holds numbers."""
    with open_file(file) as stream:
        with naming(file):
            parquet = pq.ParquetFile(stream)
        if "label" not in parquet.schema_arrow.names or not _is_text(parquet.schema_arrow.field("label").type):
            return
        for _, table in _tables(file, parquet, ["label"]):
            yield from table["label"].to_pylist()


def image_column(file: SourceFile, schema: pa.Schema) -> str:
    """The column with the images; raises `SchemaError` where there is none."""
    found = [name for name in IMAGE_COLUMNS if name in schema.names]
    if not found:
        raise SchemaError(f"{file.path}: no column 'image'; it has {', '.join(schema.names)}")
    kind = schema.field(found[0]).type
    if not _holds_bytes(kind):
        raise SchemaError(f"{file.path}: column '{found[0]}' is {kind}; must be binary or struct<bytes, path>")
    return found[0]


@contextmanager
def naming(file: SourceFile) -> Iterator[None]:
    """Say which file is damaged; a failure of disk or network, known by its error number, stays what it is."""
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        if kind_of(file.path) is None:
            raise SourceError(
                f"{printable(file.path)}: its name ends in none of {ENDINGS}, and it is no Parquet file; unpack it, or "
                "give a source of such files"
            ) from None
        raise SourceError(f"{file.path}: not a Parquet file, or damaged ({error}); copy it again") from None


def _schema(file: SourceFile) -> pa.Schema:
    with open_file(file) as stream, naming(file):
        return pq.ParquetFile(stream).schema_arrow


def _label_column(file: SourceFile, schema: pa.Schema, with_labels: bool) -> list[str]:
    if not with_labels:
        return []
    if "label" not in schema.names:
        raise SchemaError(f"{file.path}: no column 'label'; it has {', '.join(schema.names)}")
    kind = schema.field("label").type
    if not pa.types.is_integer(kind) and not _is_text(kind):
        raise LabelError(f"{file.path}: labels are {kind}; must be integers from 0, or names of classes")
    return ["label"]


def _tables(
    file: SourceFile, parquet: pq.ParquetFile, columns: list[str]
) -> Iterator[tuple[tuple[int, int], pa.Table]]:
    """(row group, its first row here) and at most `ROWS` rows, in order."""
    for group in range(parquet.num_row_groups):
        start = 0
        with naming(file):
            for batch in parquet.iter_batches(batch_size=ROWS, columns=columns, row_groups=[group]):
                yield (group, start), pa.Table.from_batches([batch])
                start += batch.num_rows


def _columns_of(table: pa.Table, first: str) -> tuple[list[Any], list[Label]]:
    labels = table["label"].to_pylist() if "label" in table.column_names else [None] * table.num_rows
    return table[first].to_pylist(), labels


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
