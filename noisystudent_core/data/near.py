"""Which of many 64-bit hashes lie within a few bits of each other.

Two hashes that differ in at most r of 64 bits agree in at least k of r + k blocks of bits. For every choice of k blocks
a table finds the hashes that agree in them; those alone are compared (Manku et al., WWW 2007).
"""

from collections.abc import Iterator
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Rows = NDArray[np.int64]
EFFECTIVE_BITS = 40  # as many independent bits would collide as often as the hashes of photographs do
MAX_CANDIDATES = 1 << 20  # compared at a time
QUERIES = 1 << 16  # looked up at a time
_NONE = np.int64(2**62)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # an odd multiplier that mixes all bits into the upper ones


class NearIndex:
    """Hashes among which the nearest to others are found, within `radius` bits."""

    def __init__(self, hashes: Hashes, radius: int) -> None:
        self._hashes, self._rows, _ = _distinct(hashes)
        self._radius = radius
        self._tables = list(_tables(self._hashes, radius))

    def nearest(self, queries: Hashes) -> tuple[Rows, Rows]:
        """Row of each query's nearest hash, the first of equally near ones, and its distance in bits; -1 for none."""
        best = np.full(len(queries), _NONE)
        for start in range(0, len(queries), QUERIES):
            some = slice(start, start + QUERIES)
            for table in self._tables:
                _improve(best[some], table, self._hashes, queries[some], self._radius)
        place, distance = _decoded(best)
        return np.where(place >= 0, self._rows[place] if len(self._rows) else -1, -1), distance


def nearest_before(hashes: Hashes, radius: int) -> tuple[Rows, Rows]:
    """Row of the nearest hash before each, the first of equally near ones, and its distance in bits; -1 for none.

    Holds some 160 bytes a hash in memory, whatever the radius.
    """
    distinct, rows, which = _distinct(hashes)
    best = np.full(len(distinct), _NONE)
    for table in _tables(distinct, radius):
        for start in range(0, len(distinct), QUERIES):
            some = slice(start, start + QUERIES)
            before = np.arange(start, min(start + QUERIES, len(distinct)))
            _improve(best[some], table, distinct, distinct[some], radius, before)
    place, distance = _decoded(best)
    is_first = rows[which] == np.arange(len(hashes))
    of_first = np.where(place >= 0, rows[place], -1)
    return np.where(is_first, of_first[which], rows[which]), np.where(is_first, distance[which], 0)


class _Table:
    """Hashes by the bits of a mask: buckets of those that agree in them, and of a few others."""

    def __init__(self, hashes: Hashes, mask: np.uint64) -> None:
        num_bits = max(4, len(hashes).bit_length() + 2)
        self._mask, self._shift = mask, np.uint64(64 - num_bits)
        buckets = self._buckets(hashes)
        self.order = np.argsort(buckets, kind="stable").astype(np.uint32)
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(buckets, minlength=1 << num_bits))]).astype(np.uint32)

    def bucket(self, queries: Hashes) -> tuple[Rows, Rows]:
        """Where in `order` each query's bucket starts, and its size."""
        buckets = self._buckets(queries)
        starts = self._starts[buckets].astype(np.int64)
        return starts, self._starts[buckets + 1] - starts

    def _buckets(self, hashes: Hashes) -> Rows:
        return ((hashes & self._mask) * _SPREAD >> self._shift).astype(np.int64)


def _distinct(hashes: Hashes) -> tuple[Hashes, Rows, Rows]:
    """Each hash once, in order of its first row; these rows; and which of them each hash is."""
    distinct, rows, which = np.unique(hashes, return_index=True, return_inverse=True)
    order = np.argsort(rows)
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    return distinct[order], rows[order], places[which]


def _tables(hashes: Hashes, radius: int) -> Iterator[_Table]:
    return (_Table(hashes, mask) for mask in masks(radius, _num_equal(len(hashes), radius)))


def masks(radius: int, num_equal: int) -> list[np.uint64]:
    """Choices of `num_equal` of `radius + num_equal` blocks of bits; neighbouring bits belong to different blocks."""
    num_blocks = radius + num_equal
    blocks = [sum(1 << bit for bit in range(first, 64, num_blocks)) for first in range(num_blocks)]
    return [np.uint64(sum(chosen)) for chosen in combinations(blocks, num_equal)]


def _num_equal(num_hashes: int, radius: int) -> int:
    """How many blocks to look for, for the least work: more give more tables, with fewer candidates in each."""

    def work(num_equal: int) -> float:
        num_tables = comb(radius + num_equal, num_equal)
        return num_tables * (1 + num_hashes / 2 ** (EFFECTIVE_BITS * num_equal / (radius + num_equal)))

    return min(range(1, 5), key=work)


def _improve(
    best: Rows,
    table: _Table,
    hashes: Hashes,
    queries: Hashes,
    radius: int,
    before: Rows | None = None,
) -> None:
    """Lower `best`, (distance, row) as one number a query, by what the table finds, in rows below `before` if given."""
    starts, sizes = table.bucket(queries)
    for first, last in _pieces(sizes):
        query, place = _expanded(starts, sizes, first, last)
        row = table.order[place]
        distance = np.bitwise_count(queries[query] ^ hashes[row])
        near = distance <= radius if before is None else (distance <= radius) & (row < before[query])
        code = (distance[near].astype(np.int64) << 32) | row[near]
        np.minimum.at(best, query[near], code)


def _pieces(sizes: Rows) -> Iterator[tuple[int, int]]:
    """Ranges of queries whose buckets together hold at most MAX_CANDIDATES, or of one query."""
    ends, first = np.cumsum(sizes), 0
    while first < len(sizes):
        seen = ends[first - 1] if first else 0
        last = max(int(np.searchsorted(ends, seen + MAX_CANDIDATES, side="right")), first + 1)
        yield first, last
        first = last


def _expanded(starts: Rows, sizes: Rows, first: int, last: int) -> tuple[Rows, Rows]:
    """Each query of the range once for each place of its bucket, and these places."""
    some = first + np.flatnonzero(sizes[first:last])
    query = np.repeat(some, sizes[some])
    skipped = np.cumsum(sizes[some]) - sizes[some]
    return query, np.arange(len(query)) + np.repeat(starts[some] - skipped, sizes[some])


def _decoded(best: Rows) -> tuple[Rows, Rows]:
    found = best < _NONE
    return np.where(found, best & 0xFFFFFFFF, -1), np.where(found, best >> 32, -1)
