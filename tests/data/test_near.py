"""Near hashes are found as by comparing each with each, whatever the radius and the number of tables."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noisystudent_core.data import near
from noisystudent_core.data.near import Hashes, NearIndex, Rows, masks, nearest_before

RADII = st.integers(0, 8)


@st.composite
def clustered(draw: st.DrawFn) -> Hashes:
    """Hashes around few centres, so that many are near others, some equal, some at the edge of a radius."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    centres = generator.integers(0, 2**64, draw(st.integers(1, 4)), dtype=np.uint64)
    hashes = generator.choice(centres, draw(st.integers(0, 60)))
    for _ in range(draw(st.integers(0, 9))):  # bits that change, maybe back
        hashes = hashes ^ np.left_shift(np.uint64(1), generator.integers(0, 64, len(hashes), dtype=np.uint64))
    return hashes.astype(np.uint64)


def distances(queries: Hashes, hashes: Hashes) -> Rows:
    return np.bitwise_count(queries[:, None] ^ hashes[None]).astype(np.int64)


def nearest(distance: Rows, radius: int) -> tuple[list[int], list[int]]:
    """By brute force: the first of the smallest distances in each row, -1 where none is within the radius."""
    rows, found = [], []
    for line in distance:
        best = int(line.argmin()) if len(line) else -1
        near_enough = best >= 0 and line[best] <= radius
        rows.append(best if near_enough else -1)
        found.append(int(line[best]) if near_enough else -1)
    return rows, found


@settings(deadline=None)
@given(hashes=clustered(), queries=clustered(), radius=RADII, mixed=st.booleans())
def test_nearest_is_that_of_brute_force(hashes: Hashes, queries: Hashes, radius: int, mixed: bool) -> None:
    queries = np.concatenate([queries, hashes[::2] ^ np.uint64(0b101)]) if mixed else queries
    row, distance = NearIndex(hashes, radius).nearest(queries)
    assert (row.tolist(), distance.tolist()) == nearest(distances(queries, hashes), radius)


@settings(deadline=None)
@given(hashes=clustered(), radius=RADII)
def test_nearest_before_is_that_of_brute_force(hashes: Hashes, radius: int) -> None:
    later = np.arange(len(hashes))[None] >= np.arange(len(hashes))[:, None]
    row, distance = nearest_before(hashes, radius)
    assert (row.tolist(), distance.tolist()) == nearest(np.where(later, 99, distances(hashes, hashes)), radius)


@pytest.mark.parametrize("radius", range(9))
@pytest.mark.parametrize("num_equal", range(1, 5))
def test_hashes_within_the_radius_agree_under_a_mask(radius: int, num_equal: int) -> None:
    generator = np.random.default_rng(radius)
    chosen = masks(radius, num_equal)
    for _ in range(50):
        difference = np.bitwise_or.reduce(np.uint64(1) << generator.permutation(64)[:radius].astype(np.uint64))
        assert any(difference & mask == 0 for mask in chosen)


@pytest.mark.parametrize("radius", [0, 1, 4, 8])
def test_radius_holds_to_the_bit(radius: int) -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, 500, dtype=np.uint64)
    for flipped, found in ((radius, True), (radius + 1, False)):
        difference = np.uint64(sum(1 << (7 * bit % 64) for bit in range(flipped)))
        row, distance = NearIndex(hashes, radius).nearest(hashes ^ difference)
        assert (row == np.arange(500)).all() == found
        assert set(distance.tolist()) == ({flipped} if found else {-1})


def test_pieces_of_the_work_are_bounded_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    hashes = generator.integers(0, 2**12, 600, dtype=np.uint64)  # all alike: every bucket is full
    queries = generator.integers(0, 2**12, 300, dtype=np.uint64)
    whole = NearIndex(hashes, 4).nearest(queries), nearest_before(hashes, 4)
    most, expanded = [], near._expanded

    def counting(*arguments: object) -> tuple[Rows, Rows]:
        found = expanded(*arguments)  # pyright: ignore[reportArgumentType]
        most.append(len(found[0]))
        return found

    monkeypatch.setattr(near, "_expanded", counting)
    monkeypatch.setattr(near, "MAX_CANDIDATES", 1000)
    monkeypatch.setattr(near, "QUERIES", 64)
    pieces = NearIndex(hashes, 4).nearest(queries), nearest_before(hashes, 4)
    np.testing.assert_equal(pieces, whole)
    assert 600 < max(most) <= 1000 and sum(most) > 20_000


def test_as_many_equal_hashes_as_there_are_take_no_longer() -> None:
    row, distance = nearest_before(np.full(200_000, 12345, np.uint64), 4)  # squared: 4e10 comparisons
    assert row[0] == -1 and not row[1:].any() and not distance[1:].any()
