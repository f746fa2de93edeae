"""Filtering and balancing: exact, seeded, keyed by image id (paper section 2, "Other Techniques", and 3.1).

The predictions are read once. Confidences are counted per class, and the rows above the threshold go to disk, in
buckets by image id, each of which fits into memory. Bucket by bucket then, several at once: rows that repeat an image
are found; images around the place where a class's target is reached are gathered, so that the place is known exactly;
the chosen images are sorted by id, and each bucket becomes a part. No step holds more than a few buckets.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from noisystudent_core.config.settings import SelectConfig
from noisystudent_core.data.labels import num_classes_of
from noisystudent_core.errors import ConfigurationError, DataError
from noisystudent_core.events import Events
from noisystudent_core.pseudo_labels import passes
from noisystudent_core.pseudo_labels.buckets import Buckets
from noisystudent_core.pseudo_labels.cuts import Choice, Copies, Lots
from noisystudent_core.pseudo_labels.histogram import Array, ConfidenceHistogram, fine_edges
from noisystudent_core.pseudo_labels.predicted import Reading
from noisystudent_core.pseudo_labels.thresholds import THRESHOLDS, threshold_table
from noisystudent_core.storage.manifest import Artifact, Inputs, Manifest
from noisystudent_core.storage.stage import Place, Written, stage


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
    `validation_images`, for the table of thresholds in the manifest's facts. Rows are in order of image id. They and
    their split into parts do not depend on the order or the split of what is read, nor on the number of threads, but
    for the columns `part` and `row`, which say where an image lies.

    A row counts under the first of these that holds: undecodable, not_finite, an exclusion's reason, not_in_fraction,
    above_max_confidence, below_threshold,
    repeated (another row of the image, above the threshold, is better), over_target. Repeats below the threshold are
    therefore not looked for, and counted as images of their own in the facts.

    Raises `ConfigurationError` where a setting names no class or needs inputs that are not there, `DataError` where
    nothing is selected. Source: section 2 "Other Techniques" and 3.1; exact, where the reference is approximate.
    """
    labelled_counts = _labelled_counts(config, inputs)
    num_classes = _num_classes(inputs)
    _check_classes(config, num_classes)
    reading = Reading.of(inputs, num_classes)
    histogram = ConfidenceHistogram([*THRESHOLDS, *fine_edges(config.threshold)])
    row_bits = next((group.row_bits for group in reading.groups()), 0)
    with Buckets(reading.num_rows) as buckets:
        drops = passes.count(reading, histogram, config, buckets)
        histogram.grow(num_classes or 1 + max(_named_classes(config), default=-1))
        num_rows, above = histogram.num_images, int(histogram.num_above(config.threshold).sum())
        if not above:
            raise _nothing(config, reading, histogram)
        repeated = passes.drop_repeated(buckets, histogram, row_bits)
        target_C = targets(config, histogram.num_above(config.threshold), labelled_counts)
        choice = Choice.of(histogram, target_C, config.threshold)
        num_chosen_C = np.minimum(histogram.num_above(config.threshold), target_C)
        lots = Lots.of(target_C % np.maximum(num_chosen_C, 1), num_chosen_C, config.seed)
        cuts = passes.find_cuts(buckets, choice, lots)
        copies = Copies(target_C // np.maximum(num_chosen_C, 1), lots, cuts.lots, config.max_copies)
        stored = list(passes.write(place.folder, buckets, cuts.choice, copies, row_bits))
    selected_C, copies_C = (np.sum(counts, axis=0) for counts in zip(*(found[1:] for found in stored), strict=True))
    over_target = above - repeated - int(selected_C.sum())
    drops.update(below_threshold=num_rows - above, repeated=repeated, over_target=over_target)
    facts = _facts(histogram, selected_C, copies_C, target_C, config.threshold) | {"num_unlabelled": reading.num_rows}
    if "validation_predictions" in inputs:
        facts["thresholds"] = threshold_table(
            histogram, inputs["validation_predictions"], inputs["validation_images"], (*THRESHOLDS, config.threshold)
        )
    events(
        "message",
        text=f"selected {selected_C.sum():,} of {reading.num_rows:,} images, {copies_C.sum():,} with copies",
    )
    counted = {reason: count for reason, count in drops.items() if count}
    return Written(tuple(found[0] for found in stored), counted, facts)


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


def _facts(
    histogram: ConfidenceHistogram, selected_C: Array, copies_C: Array, target_C: Array, threshold: float
) -> dict[str, Any]:
    columns = {
        "class": np.arange(len(target_C)),
        "predicted": histogram.counts_CB.sum(axis=1),
        "above_threshold": histogram.num_above(threshold),
        "selected": selected_C,
        "copies": copies_C,
        "target": target_C,
    }
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    short = copies_C < target_C
    return {
        "classes": [dict(zip(columns, row, strict=True)) for row in rows],
        "empty_classes": np.flatnonzero(short & (selected_C == 0)).tolist(),
        "capped_classes": np.flatnonzero(short & (selected_C > 0)).tolist(),
        "num_selected": int(selected_C.sum()),
        "num_copies": int(copies_C.sum()),
    }


def _num_classes(inputs: Inputs) -> int | None:
    return num_classes_of(Artifact.open(inputs["labelled"]).manifest) if "labelled" in inputs else None


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
    seen = "none is usable"
    if histogram.num_images:
        seen = f"none of {histogram.num_images:,} confidences is above {histogram.limit:.4f}"
    return DataError(
        f"threshold={config.threshold}: none of {reading.num_rows:,} images is selected; {seen}; "
        "lower the threshold, or fit the teacher longer"
    )
