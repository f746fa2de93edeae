"""The order of samples is a function of data set, seed, step and window, and every pass sees everything."""

from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from noisystudent_core.data.mixing import derive
from noisystudent_core.data.order import Order, Window
from noisystudent_core.errors import DataError

PARTS = st.lists(st.lists(st.integers(0, 6), max_size=7), min_size=1, max_size=12).filter(lambda p: any(map(any, p)))


def build(parts: list[list[int]], batch_size: int = 5, seed: int = 3, window: int | None = None) -> Order:
    """An order over parts of images with these copies."""
    copies = torch.tensor([number for part in parts for number in part], dtype=torch.int32)
    return Order([len(part) for part in parts], batch_size, seed, copies, window)


def taken(order: Order, num_items: int) -> list[int]:
    steps = -(-num_items // order.batch_size)
    return torch.cat([order.batch(step) for step in range(steps)])[:num_items].tolist()


def one_pass(order: Order, number: int = 0) -> list[Window]:
    return order.windows(number * len(order), (number + 1) * len(order))


@given(PARTS, st.integers(1, 9), st.integers(0, 2**31), st.integers(1, 60))
def test_every_pass_holds_each_image_as_often_as_its_copies(
    parts: list[list[int]], batch_size: int, seed: int, window: int
) -> None:
    order = build(parts, batch_size, seed, window)
    copies = [number for part in parts for number in part]
    size = len(order)
    assert size == sum(copies)
    items = taken(order, 3 * size)
    for start in range(0, 3 * size, size):
        assert Counter(items[start : start + size]) == Counter(dict(enumerate(copies)))


@given(PARTS, st.integers(1, 60), st.lists(st.integers(0, 50), min_size=1, max_size=12))
def test_order_of_asking_does_not_matter(parts: list[list[int]], window: int, steps: list[int]) -> None:
    order = build(parts, window=window)
    for step in steps:
        assert torch.equal(order.batch(step), build(parts, window=window).batch(step))
        assert len(order.batch(step)) == 5


@given(PARTS, st.integers(0, 2**31), st.integers(0, 5))
def test_what_fits_into_a_window_is_shuffled_whole_pass_by_pass(parts: list[list[int]], seed: int, step: int) -> None:
    """As every set was before there were windows: seeds keep their meaning."""
    copies = torch.tensor([number for part in parts for number in part])
    items = torch.arange(len(copies)).repeat_interleave(copies)
    passes = [
        items[torch.randperm(len(items), generator=torch.Generator().manual_seed(derive(seed, "pass", number)))]
        for number in range(step + 2)
    ]
    order = build(parts, len(items), seed, len(items))
    assert torch.equal(order.batch(step), passes[step])
    assert torch.equal(order.batch(step), build(parts, len(items), seed).batch(step))


@given(PARTS, st.integers(1, 60), st.integers(0, 3))
def test_windows_follow_one_another_and_are_large_enough(parts: list[list[int]], window: int, number: int) -> None:
    order = build(parts, window=window)
    windows = one_pass(order, number)
    assert windows[0].start == number * len(order)
    assert windows[-1].stop == (number + 1) * len(order)
    assert all(one.stop == other.start for one, other in pairwise(windows))
    largest = max(sum(part) for part in parts)
    for one in windows:
        alone = sum(other.round == one.round for other in windows) == 1
        assert one.stop - one.start >= window or alone
        assert one.stop - one.start < 2 * window + largest or alone
        found, _ = order.parts_of(order.items(one))
        assert set(found.tolist()) == set(one.parts)
        assert len(found) == one.stop - one.start


@given(PARTS, st.integers(1, 60))
def test_no_more_images_are_read_in_a_pass_than_are_shown_and_kept(parts: list[list[int]], window: int) -> None:
    order = build(parts, window=window)
    read = sum(len(parts[part]) for one in one_pass(order) for part in one.parts)
    assert read <= len(order) + sum(map(len, parts))


def test_without_copies_each_part_is_read_once_a_pass_in_an_order_of_its_own() -> None:
    order = Order([10] * 50, 5, seed=0, window=40)
    orders = []
    for number in range(3):
        visited = [part for one in one_pass(order, number) for part in one.parts]
        assert sorted(visited) == list(range(50))
        orders.append(visited)
    assert orders[0] != orders[1] != orders[2]
    assert all(sorted(one.parts) != list(range(one.parts[0], one.parts[0] + 4)) for one in one_pass(order))


@settings(max_examples=30)
@given(st.integers(2, 12), st.integers(0, 2**31))
def test_copies_lie_apart(copies: int, seed: int) -> None:
    """Evenly spaced from a random start: between two copies there is about the window's size over their number."""
    parts = [[copies] + [1] * 99 for _ in range(60)]
    order = build(parts, seed=seed, window=1000)
    windows = one_pass(order)
    assert len(windows) >= 6
    for one in windows:
        items = order.items(one)
        for part in one.parts:
            places = (items == part * 100).nonzero().squeeze(1)
            if len(places) > 1:
                even = len(items) / len(places)
                assert 0.4 * even < places.diff().min() <= places.diff().max() < 1.8 * even


def test_rounds_share_the_copies_evenly() -> None:
    parts = [[6, 1, 7, 3] * 10 for _ in range(30)]
    order = build(parts, window=100)
    rounds: dict[int, Counter[int]] = {}
    for one in one_pass(order):
        rounds.setdefault(one.round, Counter()).update(order.items(one).tolist())
    assert len(rounds) == 5  # 4.25 copies on average
    for image, copies in enumerate([6, 1, 7, 3] * 300):
        shares = [counts[image] for counts in rounds.values()]
        assert sum(shares) == copies
        assert max(shares) - min(shares) <= 1


def test_windows_are_an_order_that_does_not_change_from_one_version_to_another() -> None:
    order = build([[1, 2, 1], [3, 1], [1, 1, 1, 1], [2, 1]], batch_size=8, seed=11, window=5)
    assert [order.batch(step).tolist() for step in range(3)] == [
        [1, 3, 3, 9, 5, 7, 8, 9],
        [1, 3, 0, 2, 10, 4, 6, 9],
        [5, 3, 7, 1, 3, 8, 10, 4],
    ]


def numbers(order: Order) -> Tensor:
    return torch.cat([order.batch(step) for step in range(20)])


@pytest.mark.parametrize("window", [7, 50])
def test_seed_and_window_decide(window: int) -> None:
    first = numbers(Order([5] * 10, 10, seed=0, window=window))
    assert torch.equal(first, numbers(Order([5] * 10, 10, seed=0, window=window)))
    assert not torch.equal(first, numbers(Order([5] * 10, 10, seed=1, window=window)))
    assert not torch.equal(first, numbers(Order([5] * 10, 10, seed=0, window=21)))
    passes = {tuple(part.tolist()) for part in first.split(50)}
    assert len(passes) == 4


def test_batch_may_be_larger_than_a_pass() -> None:
    assert Counter(Order([3], 10, seed=0).batch(0).tolist()).most_common()[0][1] == 4
    assert Counter(Order([2, 2, 2], 14, seed=0, window=2).batch(0).tolist()).most_common()[-1][1] == 2


def test_image_is_found_by_part_and_place() -> None:
    parts, places = Order([2, 0, 3], 1, seed=0).parts_of(torch.tensor([0, 1, 2, 4]))
    assert (parts.tolist(), places.tolist()) == ([0, 0, 2, 2], [0, 1, 0, 2])


@pytest.mark.parametrize("sizes", [[], [0, 0]])
def test_nothing_to_fit_on_is_an_error(sizes: list[int]) -> None:
    with pytest.raises(DataError, match="0 images to fit on"):
        Order(sizes, 4, seed=0)
