"""A source of images becomes an `images` artifact."""

from collections import Counter
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from noisystudent_core.config.settings import IngestConfig, PrepareConfig
from noisystudent_core.data.ingest import ingest_file
from noisystudent_core.data.schemas import IMAGES, from_bytes, to_bytes
from noisystudent_core.data.splits import check_labels, good_rows, validation_ids
from noisystudent_core.errors import BadImagesError, SourceError
from noisystudent_core.events import Events
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import (
    Inputs,
    Manifest,
    Part,
    finished,
    publish_manifest,
    publish_part,
    stage_key,
)
from noisystudent_core.storage.sources import SourceFile, list_source
from noisystudent_core.storage.stage import Place, Written, stage


@stage
def prepare(config: PrepareConfig, inputs: Inputs, place: Place, events: Events) -> Written:
    """Take in a source: inputs {"source": URL of Parquet files}.

    Raises `SourceError` for an empty source, `BadImagesError` above `max_bad_fraction`, `LabelError` for wrong labels.
    """
    source, files = inputs["source"], list_source(inputs["source"])
    parts: list[Part] = []
    bad: Counter[str] = Counter()
    for done, file in enumerate(files, 1):
        unit = _ingest(file, config.ingest, place)
        parts += unit.parts
        bad.update(unit.drops)
        events("progress", done=done, total=len(files), unit="files")
    _check_bad(bad, sum(part.num_rows for part in parts), config.max_bad_fraction, source)
    if config.ingest.num_classes is None:
        return Written(tuple(parts), dict(bad))
    if config.share != "all":
        parts, bad = _divide(config, place, parts)
    counts = check_labels(_labels(place, parts), config.ingest.num_classes, source)
    return Written(tuple(parts), dict(bad), {"class_counts": counts})


def _ingest(file: SourceFile, config: IngestConfig, place: Place) -> Manifest:
    """A source file's own parts, in a folder that every artifact with this file shares."""
    digests = {"source": file.digest}
    key = stage_key(config, digests)
    folder = place.folder / place.beside(key)
    manifest = finished(folder.url) or _ingest_anew(file, config, folder)
    moved = tuple(part.model_copy(update={"path": place.beside(key, part.path)}) for part in manifest.parts)
    return manifest.model_copy(update={"parts": moved})


def _ingest_anew(file: SourceFile, config: IngestConfig, folder: Folder) -> Manifest:
    parts: list[Part] = []
    bad: Counter[str] = Counter()
    for number, table in enumerate(ingest_file(file, config)):
        bad.update(_reasons(table))
        parts.append(publish_part(folder, f"part-{number:05d}.parquet", to_bytes(table, IMAGES), table.num_rows))
    return publish_manifest(folder.url, config, {"source": file.digest}, tuple(parts), drops=bad)


def _labels(place: Place, parts: list[Part]) -> Iterable[tuple[bytes, int]]:
    for part in parts:
        yield from good_rows(
            from_bytes(place.folder.read(part.path), IMAGES, part.path, ["image_id", "label", "reason"])
        )


def _divide(config: PrepareConfig, place: Place, parts: list[Part]) -> tuple[list[Part], Counter[str]]:
    """One side of a stratified split, in parts of the artifact's own, and its undecodable images by reason."""
    chosen = validation_ids(_labels(place, parts), config.validation_share, config.seed)
    chosen_ids = pa.array(sorted(chosen), IMAGES.field("image_id").type)
    kept: list[Part] = []
    bad: Counter[str] = Counter()
    for number, part in enumerate(parts):
        table = from_bytes(place.folder.read(part.path), IMAGES, part.path)
        in_validation = pc.field("image_id").isin(chosen_ids)
        table = table.filter(in_validation if config.share == "validation" else ~in_validation)
        bad.update(_reasons(table))
        kept.append(publish_part(place.folder, f"part-{number:05d}.parquet", to_bytes(table, IMAGES), table.num_rows))
    return kept, bad


def _reasons(table: pa.Table) -> list[str]:
    return table["reason"].drop_null().to_pylist()


def _check_bad(bad: Counter[str], num_rows: int, max_bad_fraction: float, source: str) -> None:
    if num_rows == 0:
        raise SourceError(f"{source}: no image in it; give a source with at least one row")
    if bad.total() > max_bad_fraction * num_rows:
        reasons = ", ".join(f"{reason} {count}" for reason, count in bad.most_common())
        raise BadImagesError(
            f"{source}: {bad.total()} of {num_rows} images cannot be decoded ({reasons}); "
            f"at most data.max_bad_fraction={max_bad_fraction} may: repair the source or raise it"
        )
