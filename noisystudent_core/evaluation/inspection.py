"""What is in sets of images: counted part by part, in memory that does not grow with them, and what of it matters."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from noisystudent_core.config.data import InspectConfig

EVALUATION = ("validation", "test")  # sets that no image for training may be in
MOST_SIZES = 10_000  # different sizes that are told apart
MOST_DAMAGED = 20  # damaged images that are listed by name
IMBALANCE = 10  # times as many images in the largest class as in the smallest: worth a warning


@dataclass(kw_only=True)
class Summary:
    """One set's counts; sizes are of images turned upright, in pixels."""

    name: str
    url: str
    num_images: int = 0
    num_bytes: int = 0
    reasons: Counter[str] = field(default_factory=Counter)  # of images that cannot be used
    damaged: list[tuple[str, str]] = field(default_factory=list)  # name and reason of the first ones
    class_counts: Counter[int] = field(default_factory=Counter)  # usable images
    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)  # format and mode
    sizes: Counter[tuple[int, int]] | None = field(default_factory=Counter)  # height and width; None: too many
    heights: Counter[int] = field(default_factory=Counter)
    widths: Counter[int] = field(default_factory=Counter)

    @property
    def num_usable(self) -> int:
        """Images that can be decoded."""
        return self.num_images - self.reasons.total()

    def add(self, table: pa.Table) -> None:
        """Count the images of one part, rows of the `INSPECTIONS` schema."""
        self.num_images += table.num_rows
        self.num_bytes += pc.call_function("sum", [table["num_bytes"]]).as_py() or 0
        self.reasons.update(_counts(table["reason"].drop_null()))
        if len(self.damaged) < MOST_DAMAGED:
            bad = table.filter(pc.field("reason").is_valid()).slice(0, MOST_DAMAGED - len(self.damaged))
            self.damaged += zip(map(str, bad["source"].to_pylist()), bad["reason"].to_pylist(), strict=True)
        good = table.filter(pc.field("reason").is_null())
        self.class_counts.update(_counts(good["label"].drop_null()))
        kinds = good.group_by(["format", "mode"]).aggregate([([], "count_all")])
        self.kinds.update({(row["format"] or "?", row["mode"] or "?"): row["count_all"] for row in kinds.to_pylist()})
        self._add_sizes(good)

    def _add_sizes(self, good: pa.Table) -> None:
        self.heights.update(_counts(good["height"]))
        self.widths.update(_counts(good["width"]))
        if self.sizes is not None:
            found = good.group_by(["height", "width"]).aggregate([([], "count_all")]).to_pylist()
            self.sizes.update({(row["height"], row["width"]): row["count_all"] for row in found})
            if len(self.sizes) > MOST_SIZES:
                self.sizes = None


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Different images that stand in both of two sets with equal bytes."""

    first: str
    second: str
    num_images: int
    num_other_label: int = 0  # of them, with another label in the second set

    @property
    def is_leak(self) -> bool:
        """Whether an evaluation image is among those for training."""
        return (self.first in EVALUATION) != (self.second in EVALUATION)


@dataclass(frozen=True, kw_only=True)
class Near:
    """Images of a set for training whose hash is near that of an evaluation image; None: the hash cannot tell."""

    evaluation: str
    training: str
    num_images: int | None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that matters, in words."""

    level: Literal["error", "warning", "note"]
    text: str


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """Everything that was found in sets of images."""

    config: InspectConfig
    sets: Sequence[Summary]
    class_names: Mapping[int, str]
    repeated: Mapping[str, int]  # images of each set beyond the first one of equal bytes
    shared: Sequence[Shared]
    look_alikes: Mapping[str, int | None]  # images of each set near an earlier one of it; None: not looked for
    near: Sequence[Near]

    @property
    def leaks(self) -> list[Shared]:
        """Sets for training that evaluation images stand in."""
        return [pair for pair in self.shared if pair.is_leak]

    @property
    def findings(self) -> list[Finding]:
        """What matters, the worst first."""
        found = [*self._of_pairs(), *(finding for summary in self.sets for finding in self._of_set(summary))]
        found += [*self._missing_classes(), *self._untold()]
        return sorted(found, key=lambda finding: ["error", "warning", "note"].index(finding.level))

    def as_json(self) -> dict[str, Any]:
        """All numbers as plain values."""
        return {
            "findings": [vars(finding) for finding in self.findings],
            "leaks": sum(pair.num_images for pair in self.leaks),
            "sets": {summary.name: self._set_as_json(summary) for summary in self.sets},
            "shared": [vars(pair) for pair in self.shared],
            "near": [vars(near) for near in self.near],
            "near_radius": self.config.near_radius,
        }

    def _set_as_json(self, summary: Summary) -> dict[str, Any]:
        sizes = summary.sizes
        return {
            "url": summary.url,
            "num_images": summary.num_images,
            "num_usable": summary.num_usable,
            "num_bytes": summary.num_bytes,
            "drops": dict(sorted(summary.reasons.items())),
            "damaged": [{"source": source, "reason": reason} for source, reason in summary.damaged],
            "class_counts": {self.class_names[number]: count for number, count in sorted(summary.class_counts.items())},
            "num_unlabelled": summary.num_usable - summary.class_counts.total(),
            "kinds": [{"format": f, "mode": m, "num_images": n} for (f, m), n in summary.kinds.most_common()],
            "sizes": None
            if sizes is None
            else [{"height": h, "width": w, "num_images": n} for (h, w), n in in_order(sizes)],
            "heights": spread(summary.heights),
            "widths": spread(summary.widths),
            "repeated": self.repeated[summary.name],
            "look_alikes": self.look_alikes[summary.name],
        }

    def _of_pairs(self) -> list[Finding]:
        found: list[Finding] = []
        for pair in self.shared:
            if pair.is_leak:
                evaluation, training = sorted((pair.first, pair.second), key=lambda name: name not in EVALUATION)
                remedy = "a run leaves them out" if training == "unlabelled" else "remove them from one of the two"
                text = f"{evaluation}: {_images(pair.num_images)} also in {training}, with equal bytes: {remedy}"
                found.append(Finding(level="error", text=text))
            else:
                evaluated = {pair.first, pair.second} == set(EVALUATION)
                text = f"{pair.first}: {_images(pair.num_images)} also in {pair.second}, with equal bytes"
                found.append(Finding(level="warning" if evaluated else "note", text=text))
            if pair.num_other_label:
                text = f"{pair.first}: {_images(pair.num_other_label)} with another label in {pair.second}"
                found.append(Finding(level="warning", text=text))
        for near in self.near:
            if near.num_images:
                text = f"{near.training}: {_images(near.num_images)} much like one of {near.evaluation}"
                found.append(Finding(level="warning", text=f"{text}: the pictures show whether they are copies"))
        return found

    def _of_set(self, summary: Summary) -> list[Finding]:
        name, found = summary.name, list[Finding]()
        for reason, count in sorted(summary.reasons.items()):
            share = count / summary.num_images
            found.append(Finding(level="warning", text=f"{name}: {_images(count)} ({share:.2%}) left out: {reason}"))
        if repeated := self.repeated[name]:
            text = f"{name}: {_images(repeated)} repeated in it, with equal bytes"
            found.append(Finding(level="note" if name == "unlabelled" else "warning", text=text))
        counts = summary.class_counts
        if counts and max(counts.values()) >= IMBALANCE * min(counts.values()):
            (most, largest), (least, smallest) = counts.most_common(1)[0], counts.most_common()[-1]
            text = f"{name}: {largest:,} images of class {self.class_names[most]!r}, {smallest:,} of "
            found.append(Finding(level="warning", text=text + f"{self.class_names[least]!r}"))
        if name in ("labelled", *EVALUATION) and not counts:
            found.append(Finding(level="warning", text=f"{name}: no labels were read; say how many classes there are"))
        return found

    def _missing_classes(self) -> list[Finding]:
        labelled = [summary for summary in self.sets if summary.class_counts]
        found = []
        for one, other in combinations(labelled, 2):
            for has, lacks in ((one, other), (other, one)):
                names = [self.class_names[n] for n in sorted(has.class_counts.keys() - lacks.class_counts.keys())]
                if names:
                    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                    text = (
                        f"{lacks.name}: no image of class {', '.join(map(repr, names[:3]))}{more}, {has.name} has some"
                    )
                    found.append(Finding(level="warning", text=text))
        return found

    def _untold(self) -> list[Finding]:
        """What was not looked for, or could not be told."""
        found = []
        for name, count in self.look_alikes.items():
            if count is None and self.config.near_radius is not None:
                text = f"{name}: more than {self.config.max_near_images:,} images: look-alikes are not looked for"
                found.append(Finding(level="note", text=text))
        for name in sorted({near.evaluation for near in self.near if near.num_images is None}):
            text = (
                f"{name}: more than {self.config.max_look_alikes:.0%} of its images look like another of it, so that "
                "the hash cannot tell copies of them: only equal bytes count"
            )
            found.append(Finding(level="note", text=text))
        return found


def in_order(counts: Mapping[tuple[int, int], int], most: int = 10) -> list[tuple[tuple[int, int], int]]:
    """The most frequent sizes first, the smaller of equally frequent ones."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]


def spread(counts: Mapping[int, int]) -> dict[str, int] | None:
    """The least, median and greatest of counted values; None of none."""
    if not counts:
        return None
    values, numbers = arrays(counts)
    middle = int(np.searchsorted(np.cumsum(numbers), numbers.sum() / 2))
    return {"least": int(values[0]), "median": int(values[middle]), "greatest": int(values[-1])}


def arrays(counts: Mapping[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Counted values in order, and how many of each."""
    values = sorted(counts)
    return np.array(values, np.int64), np.array([counts[value] for value in values], np.int64)


def _counts(column: pa.ChunkedArray) -> dict[Any, int]:
    found = pc.call_function("value_counts", [column])
    return {row["values"]: row["counts"] for row in found.to_pylist()}


def _images(count: int) -> str:
    return f"{count:,} image{'s' * (count != 1)}"
