"""Filtering and balancing: exact, seeded, keyed by image id (paper section 2, "Other Techniques", and 3.1).

A first reading of the predictions counts confidences per class; the histogram tells in which bin each class's target is
reached. A last reading keeps the images above that bin, and of those in it the best. In between, only where image ids
repeat, a reading finds which rows to leave out. No reading holds more than the selection and one part.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import ValidationError

from noisystudent_core.config.settings import SelectConfig
from noisystudent_core.data.schemas import SELECTION, to_bytes
from noisystudent_core.errors import ConfigurationError, DataError
from noisystudent_core.events import Events
from noisystudent_core.pseudo_labels.histogram import (
    NO_ROWS,
    Array,
    ConfidenceHistogram,
    Reading,
    among,
    fine_edges,
    ids_of,
)
from noisystudent_core.pseudo_labels.thresholds import THRESHOLDS, threshold_table
from noisystudent_core.storage.digests import digest
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import Artifact, Inputs, Manifest, Part, publish_part
from noisystudent_core.storage.stage import Place, Written, stage

ROWS_PER_PART = 1_000_000
COMPACT_ROWS = 2_000_000  # boundary rows gathered before those that cannot be selected are let go


def select(
    predictions: str,
    images: str,
    out: str,
    *,
    threshold: float,
    num_images_per_class: int,
    seed: int,
    exclusions: str | None = None,
    balance: Literal["uniform", "labelled_prior", "none"] | Mapping[int, int] = "uniform",
    max_copies: int | None = None,
    labelled: str | None = None,
    validation_predictions: str | None = None,
    validation_images: str | None = None,
) -> Manifest:
    """Select the pseudo-labelled images that students see, and how often, into the folder `out`; see `select_images`.

    All addresses are artifact folders. Raises `ConfigurationError` for a setting outside its limits.
    """
    try:
        config = SelectConfig(
            threshold=threshold,
            num_images_per_class=num_images_per_class,
            balance=balance if isinstance(balance, str) else dict(balance),
            max_copies=max_copies,
            seed=seed,
        )
    except ValidationError as error:
        wrong = (f"{item['loc'][0]}={item['input']!r}: {item['msg']}" for item in error.errors())
        raise ConfigurationError("; ".join(wrong)) from None
    inputs = {
        "predictions": predictions,
        "images": images,
        "exclusions": exclusions,
        "labelled": labelled,
        "validation_predictions": validation_predictions,
        "validation_images": validation_images,
    }
    return stage(select_images)(config, {name: url for name, url in inputs.items() if url}, out, out=out)


def select_images(config: SelectConfig, inputs: Inputs, place: Place, events: Events) -> Written:
    """Filter and balance predictions, a stage's work: the best of each class, as often as its target asks.

    `inputs`: `predictions` and `images`; maybe `exclusions`; maybe `labelled` images, whose classes these are (without
    them classes end with the last one that was predicted or has a target); maybe `validation_predictions` and
    `validation_images`, for the table of thresholds in the manifest's facts. Rows are in order of image id and do not
    depend on the order or the split of what is read, but for `part` and `row`, which say where an image lies.

    Raises `ConfigurationError` where a setting names no class or needs inputs that are not there, `DataError` where
    nothing is selected. Source: section 2 "Other Techniques" and 3.1; exact, where the reference is approximate.
    """
    labelled_counts = _labelled_counts(config, inputs)
    num_classes = _num_classes(inputs)
    _check_classes(config, num_classes)
    reading = Reading.of(inputs, num_classes)
    histogram, repeated, drops = _count(reading, config.threshold)
    histogram.grow(num_classes or 1 + max(_named_classes(config), default=-1))
    target_C = targets(config, histogram.num_above(config.threshold), labelled_counts)
    rows = _collect(reading, histogram, repeated, target_C, config.threshold)
    if rows.is_empty():
        raise _nothing(config, reading, histogram)
    rows = _with_copies(rows.sort("high", "low"), target_C, config)
    facts = _facts(histogram, rows, target_C, config.threshold) | {"num_unlabelled": reading.num_rows}
    if "validation_predictions" in inputs:
        facts["thresholds"] = threshold_table(
            histogram, inputs["validation_predictions"], inputs["validation_images"], (*THRESHOLDS, config.threshold)
        )
    num_above = int(histogram.num_above(config.threshold).sum())
    drops |= {"below_threshold": histogram.num_images - num_above, "over_target": num_above - len(rows)}
    counted = {reason: count for reason, count in drops.items() if count}
    events(
        "message", text=f"selected {len(rows):,} of {reading.num_rows:,} images, {facts['num_copies']:,} with copies"
    )
    return Written(tuple(_write(place.folder, rows)), counted, facts)


def targets(config: SelectConfig, num_above_C: Array, labelled_counts: Mapping[int, int]) -> Array:
    """How many images, copies counted, each class is to have: int64 [C]; the labelled prior sums up exactly.

    `num_above_C` int64 [C] counts each class's images above the threshold: what it has without balancing.
    """
    if config.balance == "none":
        return num_above_C
    num_classes = len(num_above_C)
    target_C = np.full(num_classes, config.num_images_per_class, np.int64)
    if isinstance(config.balance, dict):
        target_C[list(config.balance)] = list(config.balance.values())
    elif config.balance == "labelled_prior":
        counts = [labelled_counts[label] for label in range(num_classes)]
        target_C[:] = _shared_out(config.num_images_per_class * num_classes, counts)
    return target_C


def _count(reading: Reading, threshold: float) -> tuple[ConfidenceHistogram, pl.DataFrame, Counter[str]]:
    """Each image once: the histogram; the rows that repeat an image; what was dropped, with the reason."""
    histogram = ConfidenceHistogram([*THRESHOLDS, *fine_edges(threshold)])
    drops: Counter[str] = Counter()
    words = np.empty(reading.num_rows, np.uint64)  # half of each id: 8 bytes an image
    num_words = 0
    for rows, reasons in reading:
        histogram.add(rows["label"].to_numpy(), rows["confidence"].to_numpy())
        drops.update(reasons)
        words[num_words : num_words + len(rows)] = rows["high"]
        num_words += len(rows)
    repeated = _repeated(reading, _twice(words[:num_words]))
    histogram.remove(repeated["label"].to_numpy(), repeated["confidence"].to_numpy())
    drops["repeated"] += len(repeated)
    return histogram, repeated, drops


def _repeated(reading: Reading, words: Array) -> pl.DataFrame:
    """The rows of an image but its best: highest confidence, then smallest label, part and row."""
    if not len(words):
        return NO_ROWS
    suspects = pl.concat([rows.filter(among(rows, words)) for rows, _ in reading])
    best_first = suspects.sort(
        "high", "low", "confidence", "label", "part", "row", descending=[False, False, True, False, False, False]
    )
    return best_first.filter(*(pl.col(word) == pl.col(word).shift() for word in ("high", "low")))


def _collect(
    reading: Reading, histogram: ConfidenceHistogram, repeated: pl.DataFrame, target_C: Array, threshold: float
) -> pl.DataFrame:
    """The selected rows: all above their class's boundary bin, and the best of those in it."""
    boundary_C, quota_C = histogram.boundary(target_C, threshold)
    left_out = repeated.partition_by("part", as_dict=True)
    sure, edge, num_edge, limit = [NO_ROWS], [NO_ROWS], 0, COMPACT_ROWS
    for part, (rows, _) in enumerate(reading):
        rows = rows.join(left_out.get((part,), NO_ROWS), on="row", how="anti")
        label = rows["label"].to_numpy()
        bins_above = histogram.bins(rows["confidence"].to_numpy()) - boundary_C[label]
        sure.append(rows.filter(pl.Series(bins_above > 0)))
        edge.append(rows.filter(pl.Series((bins_above == 0) & (quota_C[label] > 0))))
        num_edge += len(edge[-1])
        if num_edge > limit:
            edge = [_best(pl.concat(edge), quota_C)]
            num_edge = len(edge[0])
            limit = max(COMPACT_ROWS, 2 * num_edge)
    return pl.concat([*sure, _best(pl.concat(edge), quota_C)])


def _best(rows: pl.DataFrame, quota_C: Array) -> pl.DataFrame:
    """At most the quota of each class, highest confidence first, ties by image id."""
    rows = rows.sort("label", "confidence", "high", "low", descending=[False, True, False, False])
    label = rows["label"].to_numpy()
    return rows.filter(pl.Series(_rank(label) < quota_C[label]))


def _with_copies(rows: pl.DataFrame, target_C: Array, config: SelectConfig) -> pl.DataFrame:
    """Add `copies`: a class's target shared out evenly, the remainder to its images of smallest hash."""
    label = rows["label"].to_numpy()
    num_C = np.maximum(np.bincount(label, minlength=len(target_C)), 1)
    copies, remainder = (target_C // num_C)[label], (target_C % num_C)[label]
    drawn = np.flatnonzero(remainder)  # in order of image id, which so breaks ties
    chance = seeded_hash(rows["high"].to_numpy()[drawn], rows["low"].to_numpy()[drawn], config.seed)
    drawn = drawn[np.lexsort((chance, label[drawn]))]
    copies[drawn] += _rank(label[drawn]) < remainder[drawn]
    if config.max_copies is not None:
        copies = np.minimum(copies, config.max_copies)
    return rows.with_columns(copies=pl.Series(copies).cast(pl.Int32))


def seeded_hash(high: Array, low: Array, seed: int) -> Array:
    """64 bits that look random, from an image id's two uint64 words and a seed (SplitMix64's mixing, thrice)."""
    mixed = _mix(np.array([seed % 2**64], np.uint64))
    return _mix(_mix(mixed ^ high) ^ low)


def _mix(words: Array) -> Array:
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _facts(histogram: ConfidenceHistogram, rows: pl.DataFrame, target_C: Array, threshold: float) -> dict[str, Any]:
    num_classes = len(target_C)
    columns = {
        "class": np.arange(num_classes),
        "predicted": histogram.counts_CB.sum(axis=1),
        "above_threshold": histogram.num_above(threshold),
        "selected": np.bincount(rows["label"], minlength=num_classes),
        "copies": np.bincount(rows["label"], rows["copies"], minlength=num_classes).astype(np.int64),
        "target": target_C,
    }
    short = columns["copies"] < target_C
    return {
        "classes": pl.DataFrame(columns).to_dicts(),
        "empty_classes": np.flatnonzero(short & (columns["selected"] == 0)).tolist(),
        "capped_classes": np.flatnonzero(short & (columns["selected"] > 0)).tolist(),
        "num_selected": len(rows),
        "num_copies": int(columns["copies"].sum()),
    }


def _write(folder: Folder, rows: pl.DataFrame) -> Iterator[Part]:
    for index, start in enumerate(range(0, len(rows), ROWS_PER_PART)):
        some = rows.slice(start, ROWS_PER_PART)
        ids = ids_of(some["high"].to_numpy(), some["low"].to_numpy())
        table = pa.table([ids, *(some[name].to_arrow() for name in SELECTION.names[1:])], names=SELECTION.names)
        data = to_bytes(table, SELECTION)
        part = publish_part(folder, f"part-{index:05d}.parquet", data, len(some))
        if part.digest != digest(data):
            raise ConfigurationError(f"{folder.url}: {part.path} is of another, unfinished selection; clear the folder")
        yield part


def _num_classes(inputs: Inputs) -> int | None:
    return Artifact.open(inputs["labelled"]).manifest.config["ingest"]["num_classes"] if "labelled" in inputs else None


def _labelled_counts(config: SelectConfig, inputs: Inputs) -> dict[int, int]:
    """Labelled images of each class; none unless the balance needs them."""
    if config.balance != "labelled_prior":
        return {}
    if "labelled" not in inputs:
        raise ConfigurationError("balance='labelled_prior': the labelled images are not among the inputs; give them")
    counts = Artifact.open(inputs["labelled"]).manifest.facts["class_counts"]
    return {int(label): count for label, count in counts.items()}


def _check_classes(config: SelectConfig, num_classes: int | None) -> None:
    for label in _named_classes(config):
        if label < 0 or (num_classes and label >= num_classes):
            limit = f"0 to {num_classes - 1}" if num_classes else "0 or more"
            raise ConfigurationError(f"balance names class {label}: classes are {limit}; correct the mapping")


def _named_classes(config: SelectConfig) -> list[int]:
    return list(config.balance) if isinstance(config.balance, dict) else []


def _shared_out(total: int, counts: list[int]) -> list[int]:
    """`total` in proportion to `counts`, exactly: largest remainders are rounded up, ties to the first."""
    whole = sum(counts)
    shares = [total * count // whole for count in counts]
    by_remainder = sorted(range(len(counts)), key=lambda label: -(total * counts[label] % whole))
    for label in by_remainder[: total - sum(shares)]:
        shares[label] += 1
    return shares


def _nothing(config: SelectConfig, reading: Reading, histogram: ConfidenceHistogram) -> DataError:
    seen = f"highest of {histogram.num_images:,} confidences is {histogram.highest:.4f}" if histogram.num_images else ""
    return DataError(
        f"threshold={config.threshold}: none of {reading.num_rows:,} images is selected; "
        f"the {seen or 'reason is that none is usable'}; lower the threshold, or fit the teacher longer"
    )


def _rank(label: Array) -> Array:
    """Place of each row within its class, from 0, where rows are in order of class."""
    return np.arange(len(label)) - np.searchsorted(label, label)


def _twice(words: Array) -> Array:
    words.sort()
    return np.unique(words[1:][words[1:] == words[:-1]])
