"""What a model said about images, part by part, and its confidences counted per class."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from noisystudent_core.data.schemas import EXCLUSIONS, PREDICTIONS, from_bytes
from noisystudent_core.errors import DataError, LabelError
from noisystudent_core.storage.manifest import Artifact, Inputs

Array = np.ndarray
BINS_PER_HALVING = 16  # of the distance to confidence 1, where a fitted model's confidences crowd
HALVINGS = 25  # float32 has no number nearer to 1 than 2^-24
NO_ROWS = pl.DataFrame(
    schema={
        "label": pl.Int32,
        "confidence": pl.Float32,
        "high": pl.UInt64,  # the image id's two words, big-endian
        "low": pl.UInt64,
        "part": pl.Int32,
        "row": pl.Int32,
    }
)


class ConfidenceHistogram:
    """Counts of confidences per class, exact at its edges; histograms of parts add up in any order.

    `edges` are float32, ascending: bin b holds confidences in (edges[b - 1], edges[b]], so that everything in the bins
    after an edge is strictly above it. `counts_CB` has a row for each of C classes, and grows with the labels seen.
    """

    def __init__(self, edges: Iterable[float], num_classes: int = 0) -> None:
        self.edges = np.unique(np.asarray(list(edges), np.float32))
        self.counts_CB = np.zeros((num_classes, len(self.edges) + 1), np.int64)
        self.highest = float("-inf")

    @property
    def num_images(self) -> int:
        """How many images were counted."""
        return int(self.counts_CB.sum())

    def bins(self, confidence: Array) -> Array:
        """The bin of each float32 confidence: how many edges it is strictly above."""
        return np.searchsorted(self.edges, confidence, side="left")

    def bin_above(self, threshold: float) -> int:
        """The first bin above `threshold`, which is rounded to float32 and must be an edge."""
        place = int(np.searchsorted(self.edges, np.float32(threshold)))
        assert self.edges[place] == np.float32(threshold), f"{threshold} is no edge of this histogram"
        return place + 1

    def add(self, label: Array, confidence: Array) -> None:
        """Count images: `label` int32 in 0..C-1 and `confidence` float32, finite, of the same length."""
        if len(label):
            self.grow(int(label.max()) + 1)
            self.highest = max(self.highest, float(confidence.max()))
            np.add.at(self.counts_CB.reshape(-1), self._places(label, confidence), 1)

    def remove(self, label: Array, confidence: Array) -> None:
        """Take back images that were added."""
        np.subtract.at(self.counts_CB.reshape(-1), self._places(label, confidence), 1)

    def grow(self, num_classes: int) -> None:
        """Have a row, maybe of zeros, for at least `num_classes` classes."""
        missing = num_classes - len(self.counts_CB)
        if missing > 0:
            self.counts_CB = np.pad(self.counts_CB, ((0, missing), (0, 0)))

    def num_above(self, threshold: float) -> Array:
        """Images of each class with a confidence strictly above `threshold`, int64 [C]."""
        return self.counts_CB[:, self.bin_above(threshold) :].sum(axis=1)

    def boundary(self, target_C: Array, threshold: float) -> tuple[Array, Array]:
        """The bin of each class in which its target is reached, and how many of that bin's images still fit.

        Both int64 [C]. A class that does not reach its target gets the last bin below the threshold, and zero.
        """
        first = self.bin_above(threshold)
        reached_CB = np.cumsum(self.counts_CB[:, : first - 1 : -1], axis=1)[:, ::-1]  # images in this bin and above
        num_bins_C = (reached_CB >= target_C[:, None]).sum(axis=1)  # bins at or below the boundary
        above_C = np.pad(reached_CB, ((0, 0), (0, 1)))[np.arange(len(target_C)), num_bins_C]
        return first - 1 + num_bins_C, np.where(num_bins_C > 0, target_C - above_C, 0)

    def _places(self, label: Array, confidence: Array) -> Array:
        return label.astype(np.int64) * self.counts_CB.shape[1] + self.bins(confidence)


def fine_edges(threshold: float) -> list[float]:
    """Edges from `threshold` to 1, denser towards 1, so that the bin at a class's boundary is small."""
    steps = range(1, HALVINGS * BINS_PER_HALVING)
    return [threshold, *(1 - (1 - threshold) * 2 ** (-step / BINS_PER_HALVING) for step in steps)]


@dataclass(frozen=True)
class Reading:
    """The rows of predictions that are not excluded, part by part, read from the store at each iteration."""

    predictions: Artifact
    excluded: pl.DataFrame  # high, low, reason, in order of high
    num_classes: int | None

    @classmethod
    def of(cls, inputs: Inputs, num_classes: int | None) -> "Reading":
        """Open `predictions`, `images` and, if named, `exclusions`; raises `DataError` where the first two differ."""
        predictions, images = Artifact.open(inputs["predictions"]), Artifact.open(inputs["images"])
        check_aligned(predictions, images)
        return cls(predictions, _exclusions(inputs.get("exclusions")), num_classes)

    @property
    def num_rows(self) -> int:
        """All rows, usable or not."""
        return sum(part.num_rows for part in self.predictions.manifest.parts)

    def __iter__(self) -> Iterator[tuple[pl.DataFrame, Counter[str]]]:
        for part in range(len(self.predictions.manifest.parts)):
            rows, drops = usable_rows(self.predictions, part, self.num_classes)
            found = rows.filter(among(rows, self.excluded["high"].to_numpy())).join(self.excluded, on=["high", "low"])
            drops.update(found["reason"].to_list())
            yield rows.join(found, on="row", how="anti"), drops


def check_aligned(predictions: Artifact, images: Artifact) -> None:
    """Raise `DataError` unless part i of `predictions` has a row for each row of part i of `images`."""
    seen, there = ([part.num_rows for part in artifact.manifest.parts] for artifact in (predictions, images))
    if seen != there:
        raise DataError(
            f"{predictions.url}: {sum(seen)} rows in {len(seen)} parts, {images.url}: {sum(there)} in {len(there)}; "
            "parts must match one to one: give the images that were predicted, or predict these"
        )


def usable_rows(predictions: Artifact, part: int, num_classes: int | None = None) -> tuple[pl.DataFrame, Counter[str]]:
    """The rows of a part that have a label and a finite confidence, and why the others have not.

    Columns `high`, `low` (the image id as two big-endian uint64 words), `label` int32, `confidence` float32, `part`
    and `row` int32. Raises `LabelError` for a label outside 0..num_classes-1, `SchemaError`, `CorruptArtifactError`.
    """
    where = predictions.manifest.parts[part]
    what = f"{predictions.url}/{where.path}"
    table = from_bytes(predictions.read(where), PREDICTIONS, what, PREDICTIONS.names)
    if len(table) != where.num_rows:
        raise DataError(f"{what}: {len(table)} rows; the manifest lists {where.num_rows}: delete both, predict again")
    rows = pl.DataFrame(table.select(["label", "confidence", "reason"])).with_columns(
        **id_words(table["image_id"]),
        part=pl.lit(part, pl.Int32),
        row=pl.int_range(pl.len(), dtype=pl.Int32),
    )
    decoded = rows.filter(pl.col("reason").is_null(), pl.col("label").is_not_null(), pl.col("confidence").is_not_null())
    usable = decoded.filter(pl.col("confidence").is_finite()).drop("reason")
    _check_labels(usable["label"], num_classes, what)
    return usable, Counter(undecodable=len(rows) - len(decoded), not_finite=len(decoded) - len(usable))


def id_words(image_id: pa.ChunkedArray) -> dict[str, pl.Series]:
    """Image ids as two uint64 words, `high` and `low`, that order as the ids' bytes do."""
    words = np.frombuffer(b"".join(_bytes(chunk) for chunk in image_id.chunks), ">u8").reshape(-1, 2).astype(np.uint64)
    return {"high": pl.Series("high", words[:, 0]), "low": pl.Series("low", words[:, 1])}


def ids_of(high: Array, low: Array) -> pa.Array:
    """The image ids whose words these are."""
    data = np.stack([high, low], axis=1).astype(">u8").tobytes()
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(high), [None, pa.py_buffer(data)])


def among(rows: pl.DataFrame, words: Array) -> pl.Series:
    """Which rows have an id whose first half is one of `words` (uint64, ascending)."""
    high = rows["high"].to_numpy()
    places = np.minimum(np.searchsorted(words, high), max(len(words) - 1, 0))
    return pl.Series(words[places] == high) if len(words) else pl.repeat(False, len(rows), eager=True)


def _exclusions(url: str | None) -> pl.DataFrame:
    """Ids to leave out, each with one reason, the first by name."""
    found = [pl.DataFrame(schema={"high": pl.UInt64, "low": pl.UInt64, "reason": pl.String})]
    for table in _tables(Artifact.open(url)) if url else ():
        found.append(pl.DataFrame({**id_words(table["image_id"]), "reason": pl.Series(table["reason"])}))
    return pl.concat(found).group_by("high", "low").agg(pl.col("reason").min().fill_null("excluded")).sort("high")


def _tables(exclusions: Artifact) -> Iterator[pa.Table]:
    for part in exclusions.manifest.parts:
        yield from_bytes(exclusions.read(part), EXCLUSIONS, f"{exclusions.url}/{part.path}")


def _bytes(chunk: pa.Array) -> memoryview:
    return memoryview(chunk.buffers()[1] or b"")[16 * chunk.offset : 16 * (chunk.offset + len(chunk))]


def _check_labels(label: pl.Series, num_classes: int | None, what: str) -> None:
    limit = np.iinfo(np.int32).max if num_classes is None else num_classes - 1
    wrong = label.filter((label < 0) | (label > limit))
    if len(wrong):
        raise LabelError(
            f"{what}: predicted label {wrong[0]}; must be 0 to {limit}: "
            "predict again with a model of this data set's classes, or give its num_classes"
        )
