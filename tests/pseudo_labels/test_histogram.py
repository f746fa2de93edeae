"""Histograms are exact at their edges and find the bin in which a class reaches its target."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from noisystudent_core.pseudo_labels.histogram import ConfidenceHistogram, fine_edges

CONFIDENCES = arrays.arrays(np.float32, st.integers(1, 60), elements=st.floats(0, 1, width=32))


def histogram_of(confidence: np.ndarray, threshold: float) -> ConfidenceHistogram:
    histogram = ConfidenceHistogram(fine_edges(threshold))
    histogram.add(np.arange(len(confidence)) % 3, confidence)
    return histogram


@settings(deadline=None)
@given(CONFIDENCES, st.sampled_from([0.0, 0.1, 0.3, 0.6, 0.9]))
def test_counts_above_the_threshold_are_exact_in_float32(confidence: np.ndarray, threshold: float) -> None:
    confidence[::4] = np.float32(threshold)
    kept = confidence > np.float32(threshold)
    assert histogram_of(confidence, threshold).num_above(threshold).sum() == kept.sum()


@settings(deadline=None)
@given(CONFIDENCES, st.integers(1, 20))
def test_the_boundary_bin_completes_the_target(confidence: np.ndarray, target: int) -> None:
    histogram = histogram_of(confidence, 0.2)
    boundary_C, quota_C = histogram.boundary(np.full(len(histogram.counts_CB), target), 0.2)
    for counts_B, boundary, quota in zip(histogram.counts_CB, boundary_C, quota_C, strict=True):
        reached = counts_B[histogram.bin_above(0.2) :].sum() >= target
        above = counts_B[boundary + 1 :].sum()
        assert above + quota == (target if reached else counts_B[histogram.bin_above(0.2) :].sum())
        assert quota <= counts_B[boundary]
        assert (quota > 0) == reached


@settings(deadline=None)
@given(CONFIDENCES)
def test_histograms_do_not_depend_on_the_order_and_take_back_what_was_added(confidence: np.ndarray) -> None:
    label = np.arange(len(confidence)) % 3
    parts = ConfidenceHistogram(fine_edges(0.3))
    for start in range(0, len(confidence), 7):
        chosen = np.arange(len(confidence))[::-1][start : start + 7]
        parts.add(label[chosen], confidence[chosen])
    assert (parts.counts_CB == histogram_of(confidence, 0.3).counts_CB).all()
    parts.remove(label, confidence)
    assert parts.num_images == 0


def test_edges_are_dense_where_fitted_models_are_sure() -> None:
    histogram = ConfidenceHistogram(fine_edges(0.3))
    bins = histogram.bins(np.array([0.3, 0.31, 0.999, 0.9991, 0.999999, 1.0], np.float32))
    assert (np.diff(bins) > 0).all()


def test_a_threshold_between_edges_is_refused() -> None:
    with pytest.raises(AssertionError, match="no edge"):
        ConfidenceHistogram([0.1, 0.2]).num_above(0.15)


EDGES = arrays.arrays(np.float32, st.integers(1, 40), elements=st.floats(-1, 2, width=32))


@settings(deadline=None)
@given(EDGES, EDGES)
def test_a_bin_is_the_number_of_edges_below(edges: np.ndarray, confidence: np.ndarray) -> None:
    histogram = ConfidenceHistogram(edges)
    confidence = np.concatenate(
        [confidence, edges, np.nextafter(edges, np.float32(9)), np.nextafter(edges, np.float32(-9))]
    )
    assert histogram.bins(confidence).tolist() == [int((np.unique(edges) < one).sum()) for one in confidence]


def test_the_limit_is_the_end_of_the_highest_bin_with_an_image() -> None:
    histogram = ConfidenceHistogram([0.2, 0.4, 0.6])
    histogram.add(np.array([1, 0]), np.array([0.1, 0.25], np.float32))
    assert histogram.limit == np.float32(0.4)


def test_merged_histograms_count_what_each_has_counted() -> None:
    whole = ConfidenceHistogram([0.5])
    for label, confidence in (0, 0.7), (2, 0.1):
        part = whole.empty()
        part.add(np.array([label]), np.array([confidence], np.float32))
        whole.merge(part)
    assert whole.counts_CB.tolist() == [[0, 1], [0, 0], [1, 0]]
