"""The passes of a selection: over the predictions once, then over buckets of rows, several at a time."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from noisystudent_core.config.settings import SelectConfig
from noisystudent_core.data.mixing import derive
from noisystudent_core.data.schemas import SELECTION, to_bytes
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.pseudo_labels.buckets import Buckets
from noisystudent_core.pseudo_labels.cuts import Around, Choice, Copies, Cut, Lots, falling, order_by_id, seeded_hash
from noisystudent_core.pseudo_labels.histogram import Array, ConfidenceHistogram
from noisystudent_core.pseudo_labels.predicted import (
    GROUP_ROWS,
    Group,
    Reading,
    Rows,
    column,
    high_words,
    located,
    low_words,
)
from noisystudent_core.storage.digests import digest
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import Part

MAX_THREADS = 8  # memory goes by their number
EXTRA_THREADS = 1  # beside one a core, for those that wait for a disk

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    work: Callable[[Item], Result], items: Iterable[Item], most_threads: int | None = None
) -> Iterator[Result]:
    """What `work` returns for each item, in order; numbers are worked on without the interpreter's lock."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    with ThreadPoolExecutor(min(most_threads or MAX_THREADS, cores + EXTRA_THREADS), "selection") as pool:
        yield from pool.map(work, items)


def count(reading: Reading, histogram: ConfidenceHistogram, config: SelectConfig, buckets: Buckets) -> Counter[str]:
    """Count all rows, and put those above the threshold into `buckets`; what was dropped and why."""
    drops: Counter[str] = Counter()
    lock = Lock()

    def read(group: Group) -> None:
        counted, pieces = histogram.empty(), []
        for rows, excluded, dropped in reading.batches(group):
            counted.add(rows.label, rows.confidence)
            excluded = np.concatenate([excluded, outside(rows, config, excluded, dropped)])
            counted.remove(rows.label[excluded], rows.confidence[excluded])
            is_above = rows.confidence > np.float32(config.threshold)
            is_above[excluded] = False
            pieces.append(buckets.sorted(rows, np.flatnonzero(is_above)))
            if sum(len(piece.rows) for piece in pieces) >= GROUP_ROWS:  # of one large part
                buckets.add(pieces, group.first)
                pieces.clear()
            with lock:
                drops.update(dropped)
        if pieces:
            buckets.add(pieces, group.first)
        with lock:
            histogram.merge(counted)

    for _ in in_threads(read, reading.groups()):
        pass
    return drops


def outside(rows: Rows, config: SelectConfig, excluded: Array, drops: Counter[str]) -> Array:
    """Numbers of the rows, not `excluded` yet, outside the fraction or above the band; they are counted in `drops`."""
    if config.fraction == 1 and config.max_confidence == 1:
        return np.empty(0, np.int64)
    is_left = np.ones(len(rows), bool)
    is_left[excluded] = False
    found = []
    for reason, is_outside in (
        ("not_in_fraction", ~drawn(rows.image_id, config.fraction, config.seed)),
        ("above_max_confidence", rows.confidence > np.float32(config.max_confidence)),
    ):
        found.append(np.flatnonzero(is_left & is_outside))
        is_left[found[-1]] = False
        drops[reason] += len(found[-1])
    return np.concatenate(found)


def drawn(image_id: Array, fraction: float, seed: int) -> Array:
    """Which images are in the fraction, bool [N], of ids V16 [N]: a smaller one is part of a larger one."""
    if fraction == 1:
        return np.ones(len(image_id), bool)
    return seeded_hash(image_id, derive(seed, "fraction", 0)) < np.uint64(fraction * 2**64)


def drop_repeated(buckets: Buckets, histogram: ConfidenceHistogram, row_bits: int) -> int:
    """Leave all rows of an image but its best out of `buckets` and `histogram`; how many."""
    lock = Lock()

    def drop(bucket: int) -> int:
        rows, firsts = buckets.read(bucket)
        which = repeated(rows, firsts, row_bits, buckets.bits)
        if len(which):
            buckets.drop(bucket, which, len(rows))
            with lock:
                histogram.remove(rows.label[which], rows.confidence[which])
        return len(which)

    return sum(in_threads(drop, range(len(buckets))))


def repeated(rows: Rows, firsts: Array, row_bits: int, shared_bits: int) -> Array:
    """Numbers of the rows of an image but its best: highest confidence, then smallest label, part and row."""
    order, tied = order_by_id(rows.image_id, shared_bits)
    which = order[tied]
    some = rows.take(which)
    high, low = high_words(some.image_id), low_words(some.image_id)
    part, row = located(some.place, firsts[which], row_bits)
    best_first = np.lexsort((row, part, some.label, -some.confidence, low, high))
    follows = (high[best_first][1:] == high[best_first][:-1]) & (low[best_first][1:] == low[best_first][:-1])
    return which[best_first[1:][follows]]


class Cuts(NamedTuple):
    """The last image of each class that is chosen, and the last one that has one copy more."""

    choice: Cut
    lots: Cut


def find_cuts(buckets: Buckets, choice: Choice, lots: Lots) -> Cuts:
    """Where classes are cut off, from one look at the buckets, but for chances of one in 10^14."""

    def gather(bucket: int) -> tuple[Around, Around]:
        rows, _ = buckets.read(bucket)
        return choice.gather(rows), lots.gather(rows)

    around = list(in_threads(gather, range(len(buckets))))
    choice_cut = choice.cut(Around.joined([chosen for chosen, _ in around]))
    winners = Around.joined([won for _, won in around])
    if not winners.reaches(lots.num_winners_C).all():
        all_lots = lots.wider()
        found = in_threads(lambda bucket: all_lots.gather(buckets.read(bucket)[0]), range(len(buckets)))
        winners = Around.joined(list(found))
    return Cuts(choice_cut, winners.cut(lots.num_winners_C))


def write(
    folder: Folder, buckets: Buckets, chosen: Cut, copies: Copies, row_bits: int
) -> Iterator[tuple[Part, Array, Array]]:
    """Store each bucket's chosen rows in order of image id, as a part; and their number and copies by class, [C].

    A bucket without chosen rows has no part. Raises `ConfigurationError` where another selection left a part.
    """
    num_classes = len(copies.each_C)

    def store(bucket: int) -> tuple[Part, Array, Array] | None:
        rows, firsts = buckets.read(bucket)
        which = np.flatnonzero(chosen.holds(rows.label, falling(rows.confidence), rows.image_id))
        if not len(which):
            return None
        which = which[order_by_id(rows.image_id[which], buckets.bits)[0]]
        rows, firsts = rows.take(which), firsts[which]
        times = copies.of(rows.label, rows.image_id)
        part, row = located(rows.place, firsts, row_bits)
        values = rows.image_id, rows.label, rows.confidence, times, part, row
        columns = [column(some, field.type) for some, field in zip(values, SELECTION, strict=True)]
        table = pa.table(columns, schema=SELECTION)
        stored = _publish(folder, f"part-{bucket:05d}.parquet", to_bytes(table, SELECTION), len(rows))
        selected_C, copies_C = (np.bincount(rows.label, weights, num_classes) for weights in (None, times))
        return stored, selected_C, copies_C.astype(np.int64)

    return (found for found in in_threads(store, range(len(buckets))) if found)


def _publish(folder: Folder, path: str, data: bytes, num_rows: int) -> Part:
    if not folder.publish(path, data) and folder.read(path) != data:
        raise ConfigurationError(f"{folder.url}: {path} is of another, unfinished selection; clear the folder")
    return Part(path=path, num_rows=num_rows, num_bytes=len(data), digest=digest(data))
