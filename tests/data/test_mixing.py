"""Seeds are functions of what they are for alone, and differ."""

import pyarrow as pa
import torch

from noisystudent_core.data.mixing import derive, id_seeds, image_seeds


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
