"""A stratified share is exact for every class, seeded, and never divides an image from its equal."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisystudent_core.data.splits import check_labels, divide
from noisystudent_core.errors import LabelError

Rows = list[tuple[bytes, int]]


def validation_ids(rows: Rows, share: float, seed: int) -> set[bytes]:
    return divide(rows, share, None, seed).validation


def rows_of(*sizes: int) -> Rows:
    """So many images of each class."""
    return [(bytes([label, number]), label) for label, size in enumerate(sizes) for number in range(size)]


@given(st.lists(st.integers(2, 60), min_size=1, max_size=5), st.floats(0.01, 0.99), st.integers(0, 2**31))
def test_share_of_every_class_is_exact(sizes: list[int], share: float, seed: int) -> None:
    chosen = validation_ids(rows_of(*sizes), share, seed)
    counts = Counter(identity[0] for identity in chosen)
    for label, size in enumerate(sizes):
        assert counts[label] == min(max(1, round(share * size)), size - 1)


@given(st.permutations(rows_of(9, 5)))
def test_order_of_rows_does_not_matter(rows: Rows) -> None:
    assert validation_ids(rows, 0.4, 0) == validation_ids(rows_of(9, 5), 0.4, 0)


def test_seed_decides() -> None:
    rows = rows_of(40, 40)
    assert validation_ids(rows, 0.25, 1) == validation_ids(rows, 0.25, 1) != validation_ids(rows, 0.25, 2)


def test_larger_share_holds_the_smaller_one() -> None:
    assert validation_ids(rows_of(50), 0.1, 0) < validation_ids(rows_of(50), 0.3, 0)


def test_equal_images_count_once() -> None:
    rows = rows_of(10) + rows_of(10) * 3
    assert validation_ids(rows, 0.3, 0) == validation_ids(rows_of(10), 0.3, 0)


def test_class_of_one_image_cannot_be_divided() -> None:
    with pytest.raises(LabelError, match="class 1 has one labelled image: a validation share needs two; give a"):
        validation_ids([*rows_of(3, 1), (bytes([1, 0]), 1)], 0.5, 0)


def test_images_are_counted_by_class() -> None:
    assert check_labels(rows_of(3, 1, 2), 3, "here") == {0: 3, 1: 1, 2: 2}
    assert check_labels(rows_of(2) * 2, 1, "here") == {0: 4}


def test_image_with_two_labels_is_named() -> None:
    rows = [(b"\x0a\x0b", 0), (b"\x0c\x0d", 1), (b"\x0a\x0b", 1)]
    with pytest.raises(LabelError, match="here: image 0a0b has labels 0 and 1; must have one: remove it"):
        check_labels(rows, 2, "here")


def test_class_without_image_is_named() -> None:
    with pytest.raises(LabelError, match="here: no labelled image for class 1, 3; each of the 4 classes needs one"):
        check_labels([*rows_of(2), (b"2", 2)], 4, "here")


def test_of_many_empty_classes_ten_are_named() -> None:
    with pytest.raises(LabelError, match=r"class 1, 2, 3, 4, 5, 6, 7, 8, 9, 10;.*lower data\.num_classes"):
        check_labels(rows_of(2), 1000, "here")
