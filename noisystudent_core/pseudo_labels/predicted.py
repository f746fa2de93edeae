"""What a model said about images, read in batches: ids, labels and confidences as columns of numbers."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from operator import and_

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noisystudent_core.data.schemas import EXCLUSIONS, PREDICTIONS, from_bytes
from noisystudent_core.errors import DataError, LabelError
from noisystudent_core.storage.manifest import Artifact, Inputs, Part

Array = np.ndarray
IMAGE_ID = np.dtype("V16")
BATCH_ROWS = 2**18  # worked on together, which the cores' caches hold: small parts are joined, large ones cut
GROUP_ROWS = 2**22  # read by one thread before it writes
PLACE_BITS = 32
USED = {"image_id": IMAGE_ID, "label": np.dtype(np.int32), "confidence": np.dtype(np.float32)}
USABLE = pc.field("reason").is_null() & reduce(and_, (pc.field(name).is_valid() for name in USED))
NUM_READERS = 16  # parts of a bucket that are read at once, where a read waits
FILTER_BITS = 20  # of an id, that tell most images from all excluded ones: a table that caches hold


@dataclass(frozen=True, eq=False)
class Rows:
    """Images with a label and a finite confidence, a column an array of N."""

    image_id: Array  # V16
    label: Array  # int32
    confidence: Array  # float32
    place: Array  # uint32: where the row lies, see `Group`

    def __len__(self) -> int:
        return len(self.label)

    def take(self, which: Array) -> "Rows":
        """Some rows, by their numbers or by a mask."""
        return Rows(self.image_id[which], self.label[which], self.confidence[which], self.place[which])


@dataclass(frozen=True)
class Group:
    """Parts that follow one another; row r of its part p of 0, 1, ... has the place p x 2^row_bits + r."""

    first: int  # index of its first part in the manifest
    parts: Sequence[Part]
    row_bits: int

    def places(self, number: int) -> Array:
        """The places uint32 of all rows of its part of this number."""
        start = number << self.row_bits
        return np.arange(start, start + self.parts[number].num_rows, dtype=np.uint32)


@dataclass(frozen=True)
class Reading:
    """The predictions of a set of images, without those that are excluded."""

    predictions: Artifact
    excluded: "Excluded"
    num_classes: int | None

    @classmethod
    def of(cls, inputs: Inputs, num_classes: int | None) -> "Reading":
        """Open `predictions`, `images` and, if named, `exclusions`; raises `DataError` where the first two differ."""
        predictions, images = Artifact.open(inputs["predictions"]), Artifact.open(inputs["images"])
        check_aligned(predictions, images)
        return cls(predictions, Excluded.read(inputs.get("exclusions")), num_classes)

    @property
    def num_rows(self) -> int:
        """All rows, usable or not."""
        return sum(part.num_rows for part in self.predictions.manifest.parts)

    def groups(self) -> list[Group]:
        """All parts, in groups."""
        return groups(self.predictions.manifest.parts)

    def batches(self, group: Group) -> Iterator[tuple[Rows, Array, Counter[str]]]:
        """The rows of a group, at most `BATCH_ROWS` at a time, numbers of the excluded ones, and what was dropped."""
        for rows, drops in read_rows(self.predictions, group, self.num_classes):
            yield rows, self.excluded.find(rows.image_id, drops), drops


def groups(parts: Sequence[Part]) -> list[Group]:
    """All parts, neighbours put together up to `GROUP_ROWS` rows, larger ones alone."""
    row_bits = max((part.num_rows - 1 for part in parts), default=0).bit_length()
    ranges = _together([part.num_rows for part in parts], GROUP_ROWS, 2 ** (PLACE_BITS - row_bits))
    return [Group(some.start, parts[some.start : some.stop], row_bits) for some in ranges]


def read_rows(
    predictions: Artifact, group: Group, num_classes: int | None = None
) -> Iterator[tuple[Rows, Counter[str]]]:
    """The rows of a group that have a label and a finite confidence, and why the others have not, in batches.

    Raises `LabelError` for a label outside 0..num_classes-1, `SchemaError`, `CorruptArtifactError`, and `DataError`
    for a part of another length than the manifest says.
    """
    for some in _together([part.num_rows for part in group.parts], BATCH_ROWS, len(group.parts)):
        parts = group.parts[some.start : some.stop]
        table = pa.concat_tables(_tables(predictions, parts))
        places = np.concatenate([group.places(number) for number in some])
        for start in range(0, len(table), BATCH_ROWS):
            batch = table.slice(start, BATCH_ROWS).combine_chunks()
            rows, drops = _usable(batch, places[start : start + BATCH_ROWS])
            if len(rows):
                _check_labels(rows.label, num_classes, f"{predictions.url}/{parts[0].path}, or one of the next")
            yield rows, drops


def located(place: Array, first: Array, row_bits: int) -> tuple[Array, Array]:
    """Part and row, int32 [N], of places uint32 [N] in groups that begin with these parts, int32 [N]."""
    part = first + (place.astype(np.uint64) >> np.uint64(row_bits)).astype(np.int32)
    return part, (place & np.uint32(2**row_bits - 1)).astype(np.int32)


def check_aligned(predictions: Artifact, images: Artifact) -> None:
    """Raise `DataError` unless part i of `predictions` has a row for each row of part i of `images`."""
    seen, there = ([part.num_rows for part in artifact.manifest.parts] for artifact in (predictions, images))
    if seen != there:
        raise DataError(
            f"{predictions.url}: {sum(seen)} rows in {len(seen)} parts, {images.url}: {sum(there)} in {len(there)}; "
            "parts must match one to one: give the images that were predicted, or predict these"
        )


@dataclass(frozen=True, eq=False)
class Excluded:
    """Ids to leave out, each with one reason, the first by name."""

    reasons: dict[bytes, str]
    highs: Array  # first halves of the ids, uint64, ascending
    maybe: tuple[
        Array, ...
    ]  # bool [2^FILTER_BITS], of each half: whether that of an excluded id begins with these bits

    @classmethod
    def read(cls, url: str | None) -> "Excluded":
        """Those of an `exclusions` artifact; none without one."""
        reasons: dict[bytes, str] = {}
        for table in _exclusions(Artifact.open(url)) if url else ():
            for image_id, reason in zip(table["image_id"].to_pylist(), table["reason"].to_pylist(), strict=True):
                said = reason or "excluded"
                reasons[image_id] = min(said, reasons.get(image_id, said))
        image_id = np.frombuffer(b"".join(reasons), IMAGE_ID)
        maybe = tuple(np.zeros(2**FILTER_BITS, bool) for _ in range(2))
        for half, table in enumerate(maybe):
            table[_leading(image_id, half)] = True
        return cls(reasons, np.sort(high_words(image_id)), maybe)

    def find(self, image_id: Array, drops: Counter[str]) -> Array:
        """Numbers of the rows that are excluded, of ids V16 [N]; their reasons are counted in `drops`."""
        if not self.reasons:
            return np.empty(0, np.int64)
        rows = np.flatnonzero(self.maybe[0][_leading(image_id, 0)])
        rows = rows[self.maybe[1][_leading(image_id[rows], 1)]]
        high = high_words(image_id[rows])
        places = np.minimum(np.searchsorted(self.highs, high), len(self.highs) - 1)
        rows = rows[self.highs[places] == high]
        said = [self.reasons.get(found.tobytes()) for found in image_id[rows]]
        drops.update(reason for reason in said if reason)
        return rows[[reason is not None for reason in said]] if said else rows


def _leading(image_id: Array, half: int) -> Array:
    """The first `FILTER_BITS` bits of the halves of ids, uint32 [N]."""
    return image_id.view(">u4")[2 * half :: 4] >> np.uint32(32 - FILTER_BITS)


def high_words(image_id: Array) -> Array:
    """The first half of each id, as a number uint64 that orders as its bytes do."""
    return image_id.view(">u8")[::2].astype(np.uint64)


def low_words(image_id: Array) -> Array:
    """The second half of each id, as a number uint64 that orders as its bytes do."""
    return image_id.view(">u8")[1::2].astype(np.uint64)


def numbers(column: pa.ChunkedArray, dtype: np.dtype) -> Array:
    """A column without nulls, of a type that takes as many bytes as `dtype`; not copied where it is in one piece.

    (pyarrow's own conversion begins by importing pandas, which takes longer than a million rows.)
    """
    found = []
    for chunk in column.chunks:
        data = chunk.buffers()[1]
        whole = np.frombuffer(data, dtype) if data else np.empty(0, dtype)
        found.append(whole[chunk.offset : chunk.offset + len(chunk)])
    return found[0] if len(found) == 1 else np.concatenate([np.empty(0, dtype), *found])


def column(values: Array, kind: pa.DataType) -> pa.Array:
    """A column of these values, [N], which take as many bytes each."""
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def _together(sizes: Sequence[int], most: int, most_parts: int) -> list[range]:
    """Ranges of neighbours that have at most `most` rows together, or are alone."""
    starts, num_rows = [0], 0
    for number, size in enumerate(sizes):
        num_rows += size
        if number > starts[-1] and (num_rows > most or number - starts[-1] == most_parts):
            starts.append(number)
            num_rows = size
    return [range(start, stop) for start, stop in pairwise([*starts, len(sizes)]) if stop > start]


def _tables(predictions: Artifact, parts: Sequence[Part]) -> list[pa.Table]:
    if predictions.folder.is_local or len(parts) == 1:
        return [_table(predictions, part) for part in parts]
    with ThreadPoolExecutor(min(NUM_READERS, len(parts))) as pool:
        return list(pool.map(lambda part: _table(predictions, part), parts))


def _table(predictions: Artifact, part: Part) -> pa.Table:
    what = f"{predictions.url}/{part.path}"
    table = from_bytes(predictions.read(part), PREDICTIONS, what, PREDICTIONS.names, use_threads=False)
    if len(table) != part.num_rows:
        raise DataError(f"{what}: {len(table)} rows; the manifest lists {part.num_rows}: delete both, predict again")
    return table


def _usable(table: pa.Table, places: Array) -> tuple[Rows, Counter[str]]:
    """The rows of a table, in one chunk a column, that have a label and a finite confidence."""
    num_rows = len(table)
    if table["reason"].null_count < num_rows or any(table[name].null_count for name in USED):
        table = table.append_column("place", column(places, pa.uint32())).filter(USABLE)
        places = numbers(table["place"], np.dtype(np.uint32))
    image_id, label, confidence = (numbers(table[name], dtype) for name, dtype in USED.items())
    rows = Rows(image_id, label, confidence, places)
    finite = np.isfinite(confidence)
    usable = rows if finite.all() else rows.take(finite)
    return usable, Counter(undecodable=num_rows - len(rows), not_finite=len(rows) - len(usable))


def _exclusions(exclusions: Artifact) -> Iterator[pa.Table]:
    for part in exclusions.manifest.parts:
        yield from_bytes(exclusions.read(part), EXCLUSIONS, f"{exclusions.url}/{part.path}", EXCLUSIONS.names)


def _check_labels(label: Array, num_classes: int | None, what: str) -> None:
    limit = np.iinfo(np.int32).max if num_classes is None else num_classes - 1
    if label.min() < 0 or label.max() > limit:
        wrong = label[(label < 0) | (label > limit)][0]
        raise LabelError(
            f"{what}: predicted label {wrong}; must be 0 to {limit}: "
            "predict again with a model of this data set's classes, or give its num_classes"
        )
