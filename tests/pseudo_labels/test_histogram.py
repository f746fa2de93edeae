"""Histograms are exact at their edges and find the bin in which a class reaches its target."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from noisystudent_core.pseudo_labels.histogram import ConfidenceHistogram, fine_edges, id_words, ids_of

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


@settings(deadline=None)
@given(st.lists(st.binary(min_size=16, max_size=16), unique=True))
def test_words_of_ids_order_as_the_ids_do(ids: list[bytes]) -> None:
    chunked = pa.chunked_array([pa.array([b"\0" * 16, *ids], pa.binary(16))[1:], pa.array([], pa.binary(16))])
    words = id_words(chunked)
    assert ids_of(words["high"].to_numpy(), words["low"].to_numpy()).to_pylist() == ids
    order = np.lexsort((words["low"].to_numpy(), words["high"].to_numpy()))
    assert [ids[place] for place in order] == sorted(ids)
