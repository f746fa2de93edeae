"""Tables of addresses, CSV or Parquet: a column `image`, `uri` or `path`, and `label`, a number or a name."""

import csv
import io
import posixpath
from collections.abc import Iterator

from noisystudent_core.data.sources import parquet
from noisystudent_core.data.sources.fetching import Where, fetched
from noisystudent_core.data.sources.samples import Label, Sample, Samples, open_file, printable
from noisystudent_core.errors import ConfigurationError, SchemaError, SourceError
from noisystudent_core.storage.filesystem import open_url
from noisystudent_core.storage.sources import SourceFile

ADDRESS_COLUMNS = (*parquet.ADDRESS_COLUMNS, "file_name")
BATCH = 1024  # rows whose images are read together


def read(file: SourceFile, *, with_labels: bool) -> Samples:
    """The image of every row, in order; where its address gives none, the row has a reason.

    Raises `SchemaError` for a missing column, `SourceError` for a table that cannot be read, `ConfigurationError`
    for an address with credentials in it.
    """
    rows = _rows(file, with_labels)
    while batch := [row for row, _ in zip(rows, range(BATCH), strict=False)]:
        found = fetched(_place(file, uri) for uri, _ in batch)
        for (uri, label), (data, reason) in zip(batch, found, strict=True):
            yield Sample(data, label, printable(uri), reason)


def labels(file: SourceFile) -> Iterator[Label]:
    """The label of every row, without reading an image."""
    if file.kind == "parquet":
        yield from parquet.labels(file)
    else:
        yield from (label for _, label in _rows(file, with_labels=True))


def _rows(file: SourceFile, with_labels: bool) -> Iterator[tuple[str, Label]]:
    if file.kind == "parquet":
        yield from parquet.read_addresses(file, with_labels=with_labels)
        return
    with open_file(file) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
        try:
            reader = csv.DictReader(text)
            address = _columns(file, list(reader.fieldnames or []), with_labels)
            for row in reader:
                label = (row["label"] or "").strip() if with_labels else ""
                yield (row[address] or "").strip(), label or None
        except (UnicodeDecodeError, csv.Error) as error:
            raise SourceError(f"{file.path}: not a CSV file in UTF-8 ({error}); write it again") from None


def _columns(file: SourceFile, found: list[str], with_labels: bool) -> str:
    has = f"it has {', '.join(found) or 'none'}"
    address = next((name for name in ADDRESS_COLUMNS if name in found), None)
    if address is None:
        raise SchemaError(f"{file.path}: no column {', '.join(map(repr, ADDRESS_COLUMNS))}, which one must be; {has}")
    if with_labels and "label" not in found:
        raise SchemaError(f"{file.path}: no column 'label'; {has}")
    return address


def _place(file: SourceFile, uri: str) -> Where:
    """Where an address leads: one without a protocol is relative to the table's folder."""
    if not uri:
        return "not_found"
    if "://" not in uri:
        return file.fs, posixpath.join(posixpath.dirname(file.path), uri)
    try:
        return open_url(uri)
    except ConfigurationError as error:
        if "credentials" in str(error):
            raise
        return "unreachable"
