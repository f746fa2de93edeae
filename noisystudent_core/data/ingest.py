"""From a source's files to rows of the `images` schema; every row is kept, a bad image with its reason."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from noisystudent_core.config.data import IngestConfig
from noisystudent_core.data.image_files import NUM_THREADS, decoded_size
from noisystudent_core.data.labels import Labels
from noisystudent_core.data.references import REFERENCES, WHERE, image_id, images_from_bytes
from noisystudent_core.data.schemas import IMAGES
from noisystudent_core.data.sources.parquet import has_addresses
from noisystudent_core.data.sources.readers import read
from noisystudent_core.data.sources.samples import Sample, Samples, printable
from noisystudent_core.errors import ConfigurationError, ImageError, LabelError
from noisystudent_core.storage.sources import SourceFile

BATCH = 64  # images that a thread checks at a time


class Checked(NamedTuple):
    """An image as it is stored: shrunk where that is wanted; a bad one as the source has it, with its reason."""

    data: bytes
    height: int | None
    width: int | None
    reason: str | None


def ingest_file(file: SourceFile, config: IngestConfig) -> Iterator[pa.Table]:
    """Yield tables of the `images` schema, of at most `images_per_part` rows and `bytes_per_part`, in the file's order.

    Raises `SourceError` for a file that cannot be read, `SchemaError` for missing or mistyped columns, `LabelError`
    for a label outside 0..num_classes-1 or a name that is no class.
    """
    if config.index_only:
        _check_can_refer(file)
    if file.kind == "part":
        yield _taken_over(file, config)
        return
    labels, row = Labels(file, config), 0
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for samples in _cut(read(file, with_labels=config.num_classes is not None), config):
            table = _rows(samples, labels.of(samples, row), config, pool)
            yield _referring(table, samples, file) if config.index_only else table
            row += len(samples)


def _check_can_refer(file: SourceFile) -> None:
    if printable(file.path) != file.path:
        raise ConfigurationError(f"index_only=True: {printable(file.path)}: a name that is no UTF-8; rename the file")
    if not file.path.endswith(".tar") and (file.kind != "parquet" or has_addresses(file)):
        raise ConfigurationError(
            f"index_only=True: {file.path} is neither Parquet with images nor an uncompressed tar; take its images in"
        )


def _taken_over(file: SourceFile, config: IngestConfig) -> pa.Table:
    """A part of an artifact that is prepared already: ids, bytes and reasons stay."""
    data: Any = file.fs.cat_file(file.path)
    table = images_from_bytes(data, file.path, IMAGES.names)
    good = table["reason"].is_null().to_pylist()
    labels = table["label"].to_pylist()
    if config.num_classes is None:
        labels = [None] * table.num_rows
    else:
        for row, (label, is_good) in enumerate(zip(labels, good, strict=True)):
            if is_good and (label is None or not 0 <= label < config.num_classes):
                shown = "no label" if label is None else f"label {label}"
                raise LabelError(f"{file.path}: row {row} has {shown}; must be 0 to {config.num_classes - 1}")
    place = table.schema.get_field_index("label")
    return table.set_column(place, "label", pa.array(labels, pa.int32()))


def _cut(samples: Samples, config: IngestConfig) -> Iterator[list[Sample]]:
    """As many neighbours as fit into a part, at least one."""
    waiting, num_bytes = list[Sample](), 0
    for sample in samples:
        if waiting and (len(waiting) == config.images_per_part or num_bytes + len(sample.data) > config.bytes_per_part):
            yield waiting
            waiting, num_bytes = [], 0
        waiting.append(sample)
        num_bytes += len(sample.data)
    if waiting:
        yield waiting


def _rows(samples: list[Sample], labels: pa.Array, config: IngestConfig, pool: ThreadPoolExecutor) -> pa.Table:
    batches = [samples[start : start + BATCH] for start in range(0, len(samples), BATCH)]
    found = pool.map(lambda batch: [(image_id(sample.data), _check(sample, config)) for sample in batch], batches)
    ids, checks = zip(*(pair for of_batch in found for pair in of_batch), strict=True)
    return pa.table(
        {
            "image_id": pa.array(ids, IMAGES.field("image_id").type),
            "image": pa.array([check.data for check in checks], pa.binary()),
            "label": labels,
            "source": [sample.name for sample in samples],
            "height": [check.height for check in checks],
            "width": [check.width for check in checks],
            "reason": [check.reason for check in checks],
        },
        schema=IMAGES,
    )


def _referring(table: pa.Table, samples: list[Sample], file: SourceFile) -> pa.Table:
    """The same rows with the places of their images in the source instead of the images."""
    uri = file.path if isinstance(file.fs, LocalFileSystem) else file.fs.unstrip_protocol(file.path)
    rows = [None if sample.place is None else (uri, file.num_bytes, file.stamp, *sample.place) for sample in samples]
    for place, (name, kind) in enumerate(WHERE.items()):
        table = table.append_column(name, pa.array([None if row is None else row[place] for row in rows], kind))
    return table.select(REFERENCES.names)


def _check(sample: Sample, config: IngestConfig) -> Checked:
    if sample.reason is not None:
        return Checked(sample.data, None, None, sample.reason)
    try:
        if config.shorter_side_px is None:
            return Checked(sample.data, *decoded_size(sample.data, max_pixels=config.max_pixels), None)
        from noisystudent_core.data.shrinking import shrunk  # PyTorch, 0.9 GB, that all other intake does without

        return Checked(*shrunk(sample.data, config.shorter_side_px, config.max_pixels), None)
    except ImageError as error:
        return Checked(sample.data, None, None, error.reason)
