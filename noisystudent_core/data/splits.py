"""Labels across parts: checked, counted, and divided into strata."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from noisystudent_core.errors import LabelError

ROWS = 65_536  # that are put into a table at a time

Rows = Iterable[tuple[bytes, int]]  # image id, label


class Division(NamedTuple):
    """Image ids of the two sides that are chosen; `labelled` is None where all that is not in `validation` is meant."""

    validation: set[bytes]
    labelled: set[bytes] | None


def good_rows(table: pa.Table) -> list[tuple[bytes, int]]:
    """(image id, label) of every decodable image of a labelled table."""
    good = table.filter(pc.field("reason").is_null())
    return list(zip(good["image_id"].to_pylist(), good["label"].to_pylist(), strict=True))


def check_labels(
    rows: Rows,
    num_classes: int,
    where: str,
    names: Sequence[str] | None = None,
    called: Callable[[bytes], str] = bytes.hex,
) -> dict[int, int]:
    """Images per class; raises `LabelError` for an image with two labels and for a class without an image.

    `names` are those of the classes, `called` says which image an id is, where that has to be told.
    """
    table, counts = _table(rows)
    for image, *two in _labelled_twice(table):
        one, other = (_class(number, names) for number in two)
        raise LabelError(f"{where}: image {called(image)} has labels {one} and {other}; must have one: remove it")
    empty = [_class(number, names) for number in range(num_classes) if not counts[number]]
    if empty:
        raise LabelError(
            f"{where}: no labelled image for class {', '.join(empty[:10])}; "
            f"each of the {num_classes} classes needs one: add images or lower data.num_classes"
        )
    return dict(sorted(counts.items()))


def divide(
    rows: Rows, validation_share: float, labelled_per_class: int | None, seed: int, names: Sequence[str] | None = None
) -> Division:
    """Divide the images of each class by their seeded hash: the smallest for validation, the next stay labelled.

    Of validation it is `validation_share` of a class, at least one image and never all, unless the share is 0. Equal
    images count once. Raises `LabelError` for a class with too few images.
    """
    classes: dict[int, set[bytes]] = defaultdict(set)
    for identity, label in rows:
        classes[label].add(identity)
    validation, labelled = set[bytes](), set[bytes]()
    for label, members in sorted(classes.items()):
        called = _class(label, names)
        number = _num_validation(called, len(members), validation_share)
        if labelled_per_class is None and not number:
            continue
        in_order = sorted(members, key=lambda identity: hashed(identity, seed))
        validation.update(in_order[:number])
        if labelled_per_class is not None:
            _check_enough(called, len(members) - number, labelled_per_class)
            labelled.update(in_order[number : number + labelled_per_class])
    return Division(validation, None if labelled_per_class is None else labelled)


def hashed(identity: bytes, seed: int) -> bytes:
    """What decides over an image where chance should: 16 bytes of its id and a seed."""
    return hashlib.blake2b(identity, key=seed.to_bytes(8, "big"), digest_size=16).digest()


def _class(number: int, names: Sequence[str] | None) -> str:
    return f"{number} ({names[number]!r})" if names else str(number)


def _labelled_twice(table: pa.Table) -> Iterator[tuple[bytes, int, int]]:
    """Each image that has another label the next time it comes, in the order of their ids, and both labels."""
    in_order = table.sort_by([("image", "ascending"), ("label", "ascending")])  # less memory than groups by image
    first, second = in_order.slice(0, max(0, len(in_order) - 1)), in_order.slice(1)
    pairs = pa.table(
        [first["image"], first["label"], second["label"], second["image"]], ["image", "one", "other", "next"]
    )
    unequal = pairs.filter((pc.field("image") == pc.field("next")) & (pc.field("one") != pc.field("other")))
    yield from zip(*(unequal[name].to_pylist() for name in ("image", "one", "other")), strict=True)


def _table(rows: Rows) -> tuple[pa.Table, Counter[int]]:
    """The rows as a table, which takes a tenth of what Python's objects do, and how many have each label."""
    counts, tables, waiting = (
        Counter[int](),
        [pa.table({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int32())})],
        iter(rows),
    )
    while batch := list(islice(waiting, ROWS)):
        images, labels = zip(*batch, strict=True)
        tables.append(pa.table({"image": pa.array(images, pa.binary()), "label": pa.array(labels, pa.int32())}))
        counts.update(labels)
    return pa.concat_tables(tables), counts


def _num_validation(label: str, num_images: int, share: float) -> int:
    if not share:
        return 0
    if num_images < 2:
        raise LabelError(f"class {label} has one labelled image: a validation share needs two; give a validation set")
    return min(max(1, round(share * num_images)), num_images - 1)


def _check_enough(label: str, num_images: int, wanted: int) -> None:
    if num_images < wanted:
        raise LabelError(
            f"class {label} has {num_images} images for labelled_per_class={wanted}; lower it, or validation_share"
        )
