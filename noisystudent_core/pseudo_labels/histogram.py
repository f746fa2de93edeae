"""Confidences counted per class, exactly at given edges."""

from collections.abc import Iterable

import numpy as np

Array = np.ndarray
BINS_PER_HALVING = 16  # of the distance to confidence 1, where a fitted model's confidences crowd
HALVINGS = 25  # float32 has no number nearer to 1 than 2^-24
CELL_BITS = 13  # of a float32 that a cell leaves out: 1024 cells per halving of the distance to 1
TOP_CELL = int(np.float32(1).view(np.int32)) >> CELL_BITS


class ConfidenceHistogram:
    """Counts of confidences per class, exact at its edges; histograms of parts add up in any order.

    `edges` are float32, ascending: bin b holds confidences in (edges[b - 1], edges[b]], so that everything in the bins
    after an edge is strictly above it. `counts_CB` has a row for each of C classes, and grows with the labels seen.
    """

    def __init__(self, edges: Iterable[float], num_classes: int = 0) -> None:
        self.edges = np.unique(np.asarray(list(edges), np.float32))
        self.counts_CB = np.zeros((num_classes, len(self.edges) + 1), np.int64)
        self._ends = np.append(self.edges, np.float32("inf"))
        cells, num_edges = np.unique(_cells(self.edges), return_counts=True)
        below = np.zeros(TOP_CELL + 2, np.int32)
        below[cells + 1] = num_edges
        self._bins_of_cells = below.cumsum(dtype=np.int32)  # edges below the cell
        self._most = int(num_edges.max(initial=0))  # edges within one cell

    @property
    def num_images(self) -> int:
        """How many images were counted."""
        return int(self.counts_CB.sum())

    @property
    def limit(self) -> float:
        """The highest end of a bin with an image in it: no confidence is above it. There must be an image."""
        return float(self._ends[np.flatnonzero(self.counts_CB.any(axis=0))[-1]])

    def empty(self) -> "ConfidenceHistogram":
        """A histogram of the same edges that has counted nothing."""
        return ConfidenceHistogram(self.edges)

    def bins(self, confidence: Array) -> Array:
        """The bin int32 of each float32 confidence: how many edges it is strictly above."""
        bins = self._bins_of_cells[_cells(confidence)]
        for _ in range(self._most):
            bins += confidence > self._ends[bins]
        return bins

    def bin_above(self, threshold: float) -> int:
        """The first bin above `threshold`, which is rounded to float32 and must be an edge."""
        place = int(np.searchsorted(self.edges, np.float32(threshold)))
        assert self.edges[place] == np.float32(threshold), f"{threshold} is no edge of this histogram"
        return place + 1

    def add(self, label: Array, confidence: Array) -> None:
        """Count images: `label` int32 in 0..C-1 and `confidence` float32, finite, of the same length."""
        if len(label):
            self._change(self._count(label, confidence), 1)

    def remove(self, label: Array, confidence: Array) -> None:
        """Take back images that were added."""
        if len(label):
            self._change(self._count(label, confidence), -1)

    def merge(self, other: "ConfidenceHistogram") -> None:
        """Add what a histogram of the same edges has counted."""
        self._change(other.counts_CB, 1)

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

    def _count(self, label: Array, confidence: Array) -> Array:
        num_bins = self.counts_CB.shape[1]
        places = label.astype(np.int64) * num_bins + self.bins(confidence)
        return np.bincount(places, minlength=num_bins * (int(label.max()) + 1)).reshape(-1, num_bins)

    def _change(self, counts_CB: Array, sign: int) -> None:
        self.grow(len(counts_CB))
        self.counts_CB[: len(counts_CB)] += sign * counts_CB


def fine_edges(threshold: float) -> list[float]:
    """Edges from `threshold` to 1, denser towards 1, so that the bin at a class's boundary is small."""
    steps = range(1, HALVINGS * BINS_PER_HALVING)
    return [threshold, *(1 - (1 - threshold) * 2 ** (-step / BINS_PER_HALVING) for step in steps)]


def _cells(confidence: Array) -> Array:
    """Small ranges of float32, numbered int32 [N] in the order of the confidences; fine near 1, as the edges are."""
    distance = np.clip(np.float32(1) - confidence, np.float32(0), np.float32(1))
    return TOP_CELL - (distance.view(np.int32) >> CELL_BITS)
