"""Classes by number and by name: what a source's labels mean."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest

import pyarrow as pa

from noisystudent_core.config.data import IngestConfig
from noisystudent_core.data.sources.folders import IN_NO_CLASS, class_name
from noisystudent_core.data.sources.readers import labels, own_names
from noisystudent_core.data.sources.samples import NO_IMAGE, Sample, is_number
from noisystudent_core.errors import LabelError
from noisystudent_core.storage.manifest import Manifest
from noisystudent_core.storage.sources import SourceFile

NUM_THREADS = 8  # that read heads of files
SHOWN = 10  # names in a message


def num_classes_of(images: Manifest) -> int | None:
    """How many classes a prepared set has, as it was told or by their names; None where no image has a label."""
    told, names = images.config["ingest"]["num_classes"], images.facts.get("class_names")
    if told is None and images.facts.get("class_counts") and names:
        return len(names)
    return told


class Labels:
    """The labels of one file as numbers of classes; a name counts by its place in `config.class_names`."""

    def __init__(self, file: SourceFile, config: IngestConfig) -> None:
        self._file, self._config = file, config
        self._numbers = {name: number for number, name in enumerate(config.class_names or ())}
        own = own_names(file) if self._numbers else None
        self._own = own if own != config.class_names else None

    def of(self, samples: Sequence[Sample], start: int) -> pa.Array:
        """int32 [N], null where labels are not read; raises `LabelError` naming the row, counted from `start`.

        What is no image, nor has a label, needs none.
        """
        if self._config.num_classes is None:
            return pa.nulls(len(samples), pa.int32())
        return pa.array([self._number(sample, row) for row, sample in enumerate(samples, start)], pa.int32())

    def _number(self, sample: Sample, row: int) -> int | None:
        label = sample.label
        if label is None and sample.reason == NO_IMAGE:
            return None
        if isinstance(label, int) and self._own is not None and 0 <= label < len(self._own):
            label = self._own[label]
        if isinstance(label, str) and label in self._numbers:
            return self._numbers[label]
        number = int(label) if label is not None and is_number(label) else None
        num_classes = self._config.num_classes
        assert num_classes is not None
        if number is None or not 0 <= number < num_classes:
            raise LabelError(self._words(sample, row, num_classes))
        return number

    def _words(self, sample: Sample, row: int, num_classes: int) -> str:
        label, name = sample.label, sample.name.removeprefix(f"{self._file.name}:")
        which = f"row {row}" if name == str(row) else f"row {row} ({name})"
        shown = "no label" if label is None else f"label {label if is_number(label) else repr(label)}"
        allowed = f"must be 0 to {num_classes - 1} (num_classes={num_classes})"
        if self._numbers:
            allowed += f", or one of the classes {shortened(self._numbers)}"
        return f"{self._file.path}: {which} has {shown}; {allowed}"


def class_names(files: Sequence[SourceFile]) -> tuple[str, ...] | None:
    """The names of a source's classes in the order of their numbers; None where its labels are numbers alone.

    The order is the source's own where it has one, else that of the names, as for torchvision's ImageFolder. Raises
    `LabelError` for files or folder trees whose lists of names differ, for names that differ in case only, and for a
    class's folder without an image.
    """
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        found = list(zip(files, pool.map(own_names, files), strict=True))
    lists = [(file, names) for file, names in found if names]
    for file, names in lists[1:]:
        if names != lists[0][1]:
            raise LabelError(
                f"{lists[0][0].path} has the classes {shortened(lists[0][1])}, {file.path} {shortened(names)}: files "
                "of one source must have the same; give data.class_names, by which both are read"
            )
    named = _named(file for file, names in found if not names)
    if lists:
        if missing := sorted(named - set(lists[0][1])):
            raise LabelError(f"{lists[0][0].path} has no class {missing[0]!r}, which other files of the source have")
        return lists[0][1]
    _check_folders(files)
    _check_trees(files)
    return check_names(tuple(sorted(named))) if named else None


def check_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """The same names; raises `LabelError` where two of them are one but for their case."""
    alike: dict[str, str] = {}
    for name in names:
        if (other := alike.setdefault(name.casefold(), name)) != name:
            raise LabelError(f"classes {other!r} and {name!r} differ in case only: rename one, or put them together")
    return names


def check_same_names(what: str, names: Sequence[str] | None, other: str, known: Sequence[str] | None) -> None:
    """Raise `LabelError` where both sets of images name their classes, and one number is two classes."""
    if not names or not known or list(names) == list(known):
        return
    pairs = enumerate(zip_longest(names, known))
    number, (name, its) = next((number, pair) for number, pair in pairs if pair[0] != pair[1])
    raise LabelError(
        f"{what}: class {number} is {name!r}, of {other} {its!r}: must be the same in the same order; take both "
        "in by the same class names (prepare --classes-of; in a run data.class_names)"
    )


def shortened(names: Iterable[str]) -> str:
    """The first names of a list, and how many more there are."""
    listed = list(names)
    more = f", ... ({len(listed)} in all)" if len(listed) > SHOWN else ""
    return ", ".join(map(repr, listed[:SHOWN])) + more


def _named(files: Iterable[SourceFile]) -> set[str]:
    """Every label of these files, unless all are numbers; a folder's name is always the name of a class."""
    found: set[str] = set()
    for file in files:
        here = {label for label in labels(file) if isinstance(label, str)}
        if file.kind == "folder" or not all(map(is_number, here)):
            found |= here
    return found


def _check_trees(files: Sequence[SourceFile]) -> None:
    """Several trees have the same folders; sources that are each one class's own folder are no trees."""
    found: dict[str, set[str]] = defaultdict(set)
    for file in files:
        if file.tree is not None and file.path != file.tree:
            found[file.tree].add(class_name(file))
    if found and (loose := next((file for file in files if file.path == file.tree), None)):
        raise LabelError(f"{loose.path}: {IN_NO_CLASS}")
    (first, names), *others = found.items() or [("", set())]
    for other, its in others:
        if its != names:
            raise LabelError(
                f"{first} has folders of the classes {shortened(sorted(names))}, {other} of {shortened(sorted(its))}: "
                "must be the same; if all are meant, name them: class_names"
            )


def _check_folders(files: Sequence[SourceFile]) -> None:
    num_bytes: dict[str, int] = defaultdict(int)
    for file in files:
        if file.kind == "folder":
            num_bytes[class_name(file)] += file.num_bytes
    empty = [name for name, size in num_bytes.items() if not size]
    if empty:
        raise LabelError(
            f"no image in the folder of class {shortened(empty)}: each of the {len(num_bytes)} classes needs one; add "
            "images or remove the folder"
        )
