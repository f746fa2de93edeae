"""A source of images becomes an `images` artifact."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from noisystudent_core.config.data import IngestConfig, PrepareConfig
from noisystudent_core.data.ingest import ingest_file
from noisystudent_core.data.labels import check_names, class_names, shortened
from noisystudent_core.data.schemas import IMAGES, to_bytes
from noisystudent_core.data.splits import Division, check_labels, divide, good_rows
from noisystudent_core.errors import BadImagesError, LabelError, SourceError
from noisystudent_core.events import Events
from noisystudent_core.stages.rearranging import Keep, rearranged
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.listing import addresses
from noisystudent_core.storage.manifest import (
    Artifact,
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

BESIDE = "../.taken-in/"  # in which the sides of a split, each in a folder of its own, share what is taken in
FILES_AT_ONCE = min(4, len(os.sched_getaffinity(0)))  # each holds a part in memory


@stage
def prepare(config: PrepareConfig, inputs: Inputs, place: Place, events: Events) -> Written:
    """Take in a source: inputs {"source": URL of files, of folders of images, or of several of them, one a line}.

    Facts of labelled images: `class_counts`, and `class_names` where the source or the settings have them. Raises
    `SourceError` for an empty source, `BadImagesError` above `max_bad_fraction`, `LabelError` for wrong labels.
    """
    source, files = ", ".join(addresses(inputs["source"])), list_source(inputs["source"])
    if config.share != "all" and not place.shared:
        place = replace(place, shared=BESIDE)
    ingest = _with_classes(config, files, inputs["source"])
    units = list(_ingest_all(files, ingest, place, events))
    parts = [part for unit in units for part in unit.parts]
    bad = sum((Counter(unit.drops) for unit in units), Counter[str]())
    _check_bad(bad, place, parts, config.max_bad_fraction, source)
    facts: dict[str, Any] = {}
    if ingest.num_classes is not None:
        labels, called = _labels(place, parts), partial(_called, place, parts)
        facts["class_counts"] = check_labels(labels, ingest.num_classes, source, ingest.class_names, called)
        if ingest.class_names is not None:
            facts["class_names"] = list(ingest.class_names)
    if config.share == "all" and not config.shuffle:
        return Written(tuple(parts), dict(bad), facts)
    return _rearrange(config, place, parts, facts)


def _with_classes(config: PrepareConfig, files: Sequence[SourceFile], source: str) -> IngestConfig:
    """The settings of the intake, with the number of classes and their names, where the source knows them."""
    ingest = config.ingest
    in_no_class = config.read_labels == "named" and any(file.name == "./" for file in files)  # images beside folders
    if ingest.num_classes is None and (not config.read_labels or in_no_class):
        return ingest.model_copy(update={"class_names": None})
    names = check_names(ingest.class_names) if ingest.class_names else _prepared_names(source) or class_names(files)
    what = ", ".join(addresses(source))
    num_classes = ingest.num_classes or (len(names) if names else None)
    if num_classes is None and config.read_labels == "named":
        return ingest
    if num_classes is None:
        raise LabelError(f"{what}: no label in it is a name; if they are numbers, say how many classes: num_classes")
    if names is not None and len(names) != num_classes:
        raise LabelError(
            f"{what}: has {len(names)} classes ({shortened(names)}), num_classes={num_classes}: must be as many"
        )
    return ingest.model_copy(update={"num_classes": num_classes, "class_names": names})


def _prepared_names(source: str) -> tuple[str, ...] | None:
    """The class names of the artifacts that a source consists of; None where it is none, or has no names."""
    found: dict[tuple[str, ...], str] = {}
    for address in addresses(source):
        try:
            names = Artifact.open(address, "images").manifest.facts.get("class_names")
        except (SourceError, FileNotFoundError, NotADirectoryError, ValueError):
            return None
        found[tuple(names or ())] = address
    if len(found) > 1:
        (one, first), (other, second) = list(found.items())[:2]
        raise LabelError(
            f"{first} has the classes {shortened(one)}, {second} {shortened(other)}: must be the same; prepare both "
            "by the same class_names"
        )
    return next(iter(found)) or None


def _ingest_all(files: Sequence[SourceFile], config: IngestConfig, place: Place, events: Events) -> Iterable[Manifest]:
    """Every file's own parts, in the files' order; several files at once."""
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        running: list[Future[Manifest]] = [pool.submit(_ingest, file, config, place) for file in files]
        try:
            for done, future in enumerate(as_completed(running), 1):
                future.result()
                events("progress", done=done, total=len(files), unit="files")
        finally:
            pool.shutdown(cancel_futures=True)
    return [future.result() for future in running]


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
        parts.append(publish_part(folder, f"part-{number:05d}.parquet", to_bytes(table, table.schema), table.num_rows))
    return publish_manifest(folder.url, config, {"source": file.digest}, tuple(parts), drops=bad)


def _labels(place: Place, parts: list[Part]) -> Iterator[tuple[bytes, int]]:
    """(image id, label) of every decodable image; reads these columns alone."""
    for table in _columns(place, parts, ["image_id", "label", "reason"]):
        yield from good_rows(table)


def _called(place: Place, parts: list[Part], identity: bytes) -> str:
    """What the source calls an image, every time it has it."""
    found = [
        str(name)
        for table in _columns(place, parts, ["image_id", "source"])
        for name in table.filter(pc.field("image_id") == pa.scalar(identity, table["image_id"].type))["source"]
    ]
    return shortened(found)


def _columns(place: Place, parts: list[Part], names: list[str]) -> Iterator[pa.Table]:
    for part in parts:
        where = place.folder / part.path
        with where.fs.open(where.path, "rb") as file:
            yield pq.ParquetFile(file).read(names)


def _rearrange(config: PrepareConfig, place: Place, parts: list[Part], facts: dict[str, Any]) -> Written:
    """One side of a stratified split, or all, in parts of the artifact's own, with its counts."""
    division = Division(set(), None)
    if config.share != "all":
        labels = _labels(place, parts)
        names = facts.get("class_names")
        division = divide(labels, config.validation_share, config.labelled_per_class, config.seed, names)
    written: list[Part] = []
    bad, counts = Counter[str](), Counter[int]()
    for part, table in rearranged(config, place, parts, _side(config, division)):
        written.append(part)
        bad.update(_reasons(table))
        counts.update(table.filter(pc.field("reason").is_null())["label"].drop_null().to_pylist())
    if config.share == "unlabelled":
        return Written(tuple(written), dict(bad))
    return Written(
        tuple(written), dict(bad), facts | ({"class_counts": dict(sorted(counts.items()))} if counts else {})
    )


def _side(config: PrepareConfig, division: Division) -> Keep:
    """What leaves the rows of one side; undecodable images stay with training, or with the unlabelled if there are."""
    validation, labelled = (_ids(division.validation), _ids(division.labelled or set()))
    in_validation, in_labelled = (pc.field("image_id").isin(ids) for ids in (validation, labelled))
    if config.share == "all":
        return lambda table: table
    if config.share == "validation":
        return lambda table: table.filter(in_validation)
    if division.labelled is None:
        return lambda table: table.filter(~in_validation)
    if config.share == "training":
        return lambda table: table.filter(in_labelled)
    return lambda table: _without_labels(table.filter(~in_validation & ~in_labelled))


def _ids(found: set[bytes]) -> pa.Array:
    return pa.array(sorted(found), IMAGES.field("image_id").type)


def _without_labels(table: pa.Table) -> pa.Table:
    labels = pa.nulls(table.num_rows, pa.int32())
    return table.set_column(table.schema.get_field_index("label"), "label", labels)


def _reasons(table: pa.Table) -> list[str]:
    return table["reason"].drop_null().to_pylist()


def _check_bad(bad: Counter[str], place: Place, parts: list[Part], max_bad_fraction: float, source: str) -> None:
    num_rows = sum(part.num_rows for part in parts)
    if num_rows == 0:
        raise SourceError(f"{source}: no image in it; give a source with at least one row")
    if bad.total() > max_bad_fraction * num_rows:
        first = _first_of_each(bad, place, parts)
        reasons = ", ".join(f"{reason} {count}: {first[reason]}" for reason, count in bad.most_common())
        raise BadImagesError(
            f"{source}: {bad.total()} of {num_rows} images cannot be used ({reasons}); "
            f"at most data.max_bad_fraction={max_bad_fraction} may: repair the source or raise it"
        )


def _first_of_each(bad: Counter[str], place: Place, parts: list[Part]) -> dict[str, str]:
    """What the source calls the first image of each reason, and that there are more."""
    found: dict[str, str] = {}
    for table in _columns(place, parts, ["source", "reason"]):
        for name, reason in zip(table["source"].to_pylist(), table["reason"].to_pylist(), strict=True):
            if reason is not None and reason not in found:
                found[reason] = name + ", ..." * (bad[reason] > 1)
        if len(found) == len(bad):
            break
    return found
