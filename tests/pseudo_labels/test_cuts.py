"""Cuts against sorting everything, ties and unlucky hashes included."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noisystudent_core.pseudo_labels.cuts import Around, Lots, order_by_id, seeded_hash
from noisystudent_core.pseudo_labels.predicted import IMAGE_ID, Rows

IDS = st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=40)


def ids_of(images: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(images), IMAGE_ID)


@settings(deadline=None)
@given(IDS, st.lists(st.integers(1, 4), min_size=40, max_size=40), st.integers(0, 40))
def test_the_cut_keeps_the_first_by_key_and_id(images: list[bytes], keys: list[int], quota: int) -> None:
    image_id, key = ids_of(sorted(set(images))), np.array(keys, np.uint64)[: len(set(images))]
    label, quota = np.ones(len(key), np.int32), min(quota, len(key))
    quota_C = np.array([0, quota])
    cut = Around(label, key, image_id, np.zeros(2, np.int64)).cut(quota_C)
    in_order = sorted(range(len(key)), key=lambda row: (key[row], image_id[row].tobytes()))
    assert np.flatnonzero(cut.holds(label, key, image_id)).tolist() == sorted(in_order[:quota])


@settings(deadline=None)
@given(IDS)
def test_ids_are_put_in_order_and_equal_ones_are_named(images: list[bytes]) -> None:
    images += [*images[:2], images[0][:8] + bytes(8)]
    order, tied = order_by_id(ids_of(images), 0)
    assert [images[row] for row in order] == sorted(images)
    found = {images[row] for row in order[tied]}
    assert found >= {image for image in images if images.count(image) > 1}
    assert found <= {image for image in images if sum(image[:7] == other[:7] for other in images) > 1}


@pytest.mark.parametrize("sigmas", [0, 6])
def test_winners_are_those_of_smallest_hash_however_narrow_the_first_window(sigmas: float) -> None:
    image_id = np.random.default_rng(0).bytes(16 * 3000)
    rows = Rows(
        np.frombuffer(image_id, IMAGE_ID),
        np.repeat(np.arange(3, dtype=np.int32), 1000),
        np.ones(3000, np.float32),
        np.arange(3000, dtype=np.uint32),
    )
    winners_C = np.array([0, 1, 617])
    lots = Lots.of(winners_C, np.full(3, 1000), seed=5, sigmas=sigmas)
    near = lots.gather(rows)
    assert near.reaches(winners_C).all() == (sigmas > 0)
    assert len(near.label) < 400
    cut = (near if sigmas else lots.wider().gather(rows)).cut(winners_C)
    key = seeded_hash(rows.image_id, 5)
    won = cut.holds(rows.label, key, rows.image_id)
    assert np.bincount(rows.label[won], minlength=3).tolist() == winners_C.tolist()
    for label, number in enumerate(winners_C):
        of_class = key[rows.label == label]
        assert set(key[won & (rows.label == label)]) == set(np.sort(of_class)[:number])
