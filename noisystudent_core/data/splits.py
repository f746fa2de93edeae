"""Labels across parts: checked, counted, and divided into strata."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from noisystudent_core.errors import LabelError

Rows = Iterable[tuple[bytes, int]]  # image id, label


def good_rows(table: pa.Table) -> list[tuple[bytes, int]]:
    """(image id, label) of every decodable image of a labelled table."""
    good = table.filter(pc.field("reason").is_null())
    return list(zip(good["image_id"].to_pylist(), good["label"].to_pylist(), strict=True))


def check_labels(rows: Rows, num_classes: int, where: str) -> dict[int, int]:
    """Images per class; raises `LabelError` for an image with two labels and for a class without an image."""
    label_of: dict[bytes, int] = {}
    counts: Counter[int] = Counter()
    for identity, label in rows:
        if label_of.setdefault(identity, label) != label:
            raise LabelError(
                f"{where}: image {identity.hex()} has labels {label_of[identity]} and {label}; must have one: remove it"
            )
        counts[label] += 1
    empty = [str(c) for c in range(num_classes) if not counts[c]]
    if empty:
        raise LabelError(
            f"{where}: no labelled image for class {', '.join(empty[:10])}; "
            f"each of the {num_classes} classes needs one: add images or lower data.num_classes"
        )
    return dict(sorted(counts.items()))


def validation_ids(rows: Rows, share: float, seed: int) -> set[bytes]:
    """The images of each class with the smallest seeded hash: `share` of them, at least one, never all.

    Raises `LabelError` for a class of a single image.
    """
    classes: dict[int, set[bytes]] = defaultdict(set)
    for identity, label in rows:
        classes[label].add(identity)
    chosen: set[bytes] = set()
    for label, members in classes.items():
        if len(members) < 2:
            raise LabelError(
                f"class {label} has one labelled image: a validation share needs two; give a validation set"
            )
        number = min(max(1, round(share * len(members))), len(members) - 1)
        chosen.update(sorted(members, key=lambda identity: _hash(identity, seed))[:number])
    return chosen


def _hash(identity: bytes, seed: int) -> bytes:
    return hashlib.blake2b(identity, key=seed.to_bytes(8, "big"), digest_size=16).digest()
