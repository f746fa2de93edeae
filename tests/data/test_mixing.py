"""The order of samples is a function of seed and step alone, and every pass sees everything."""

from collections import Counter

import pyarrow as pa
import torch
from hypothesis import given
from hypothesis import strategies as st

from noisystudent_core.data.mixing import Order, derive, id_seeds, image_seeds


def taken(order: Order, steps: int) -> list[int]:
    return [item for step in range(steps) for item in order.batch(step).tolist()]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=20), st.integers(1, 9), st.integers(0, 2**31))
def test_every_pass_holds_each_item_as_often_as_its_copies(copies: list[int], batch_size: int, seed: int) -> None:
    order = Order(len(copies), batch_size, seed, torch.tensor(copies))
    size = sum(copies)
    items = taken(order, -(-3 * size // batch_size))
    for start in range(0, 3 * size, size):
        assert Counter(items[start : start + size]) == dict(enumerate(copies))
    assert len(order) == size


@given(st.integers(1, 40), st.integers(1, 90), st.lists(st.integers(0, 50), min_size=1, max_size=12))
def test_order_of_asking_does_not_matter(num_items: int, batch_size: int, steps: list[int]) -> None:
    order = Order(num_items, batch_size, seed=3)
    for step in steps:
        assert torch.equal(order.batch(step), Order(num_items, batch_size, seed=3).batch(step))
        assert len(order.batch(step)) == batch_size


def test_passes_differ_from_one_another() -> None:
    order = Order(50, 50, seed=0)
    passes = {tuple(order.batch(step).tolist()) for step in range(20)}
    assert len(passes) == 20


def test_seed_decides() -> None:
    assert not torch.equal(Order(50, 50, seed=0).batch(0), Order(50, 50, seed=1).batch(0))


def test_batch_may_be_larger_than_a_pass() -> None:
    assert Counter(Order(3, 10, seed=0).batch(0).tolist()).most_common()[0][1] == 4


def test_without_copies_each_item_counts_once() -> None:
    assert sorted(Order(7, 7, seed=5).batch(2).tolist()) == list(range(7))


def test_image_seeds_are_unique_by_step_and_position() -> None:
    seeds = torch.cat([image_seeds(seed, step, 64) for seed in range(3) for step in range(100)])
    assert len(seeds.unique()) == len(seeds) == 3 * 100 * 64


def test_image_seed_does_not_depend_on_the_batch() -> None:
    assert torch.equal(image_seeds(0, 5, 64)[:10], image_seeds(0, 5, 10))


def test_seeds_fit_what_generators_take() -> None:
    seeds = [derive(seed, "pass", number) for seed in range(20) for number in range(20)]
    assert all(0 <= seed < 2**62 for seed in seeds) and len(set(seeds)) == 400
    assert derive(0, "pass", 0) != derive(0, "images", 0)


def test_seed_of_an_image_is_a_function_of_run_seed_and_id() -> None:
    ids = pa.chunked_array([pa.array([bytes([number]) * 16 for number in range(50)], pa.binary(16))])
    seeds = id_seeds(3, ids)
    assert seeds.dtype == torch.int64
    assert len(set(seeds.tolist())) == 50
    assert torch.equal(id_seeds(3, ids.take([7, 2])), seeds[[7, 2]])
    assert not set(id_seeds(4, ids).tolist()) & set(seeds.tolist())
    assert id_seeds(3, ids.slice(0, 0)).shape == (0,)
