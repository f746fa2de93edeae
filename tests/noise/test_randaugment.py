"""RandAugment's promises: an operation drawn per image, whatever the batch, for every dialect."""

import itertools
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from noisystudent_core.noise.randaugment import DIALECTS, RandAugment, apply_op
from tests.noise.pictures import images_of

NAMES = list(DIALECTS)
SAMPLINGS: list[Literal["bilinear", "bicubic"]] = ["bilinear", "bicubic"]


@settings(max_examples=25, deadline=None)
@given(
    dialect=st.sampled_from(NAMES),
    channels=st.sampled_from([1, 3]),
    height=st.integers(8, 80) | st.integers(8, 600),
    width=st.integers(8, 80) | st.integers(8, 600),
    num_images=st.integers(0, 5),
    magnitude=st.integers(0, 30),
    seed=st.integers(-(2**63), 2**63 - 1 - 16),
)
def test_shape_type_and_input_are_kept(
    dialect: str, channels: int, height: int, width: int, num_images: int, magnitude: int, seed: int
) -> None:
    images = torch.randint(0, 256, (num_images, channels, height, width), dtype=torch.uint8)
    before = images.clone()
    noised = RandAugment(dialect, 2, magnitude)(images, seed + torch.arange(num_images))
    assert noised.shape == images.shape and noised.dtype == torch.uint8
    assert torch.equal(images, before)


@settings(max_examples=15, deadline=None)
@given(
    dialect=st.sampled_from(NAMES),
    split=st.integers(1, 63),
    order_seed=st.integers(0, 1000),
    num_threads=st.sampled_from([1, 2]),
)
def test_no_batch_split_order_or_thread_count_changes_an_image(
    dialect: str, split: int, order_seed: int, num_threads: int
) -> None:
    images = torch.randint(0, 256, (64, 3, 33, 31), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    seeds = torch.arange(1000, 1064)
    augment = RandAugment(dialect, 3, 27)
    whole = augment(images, seeds)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(order_seed))
    threads_before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        parts = [augment(images[rows], seeds[rows]) for rows in (order[:split], order[split:])]
    finally:
        torch.set_num_threads(threads_before)
    assert torch.equal(torch.cat(parts), whole[order])


@pytest.mark.parametrize("dialect", NAMES)
def test_a_large_image_does_not_depend_on_its_batch(dialect: str) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (3, 3, 400, 401), generator=generator, dtype=torch.uint8)  # a batch in two chunks
    for name in DIALECTS[dialect].rules:
        whole = apply_op(images, name, 9, dialect=dialect)
        assert torch.equal(whole[1:2], apply_op(images[1:2], name, 9, dialect=dialect)), name


@pytest.mark.parametrize("dialect", NAMES)
def test_operations_are_drawn_evenly_with_sign_and_probability(dialect: str) -> None:
    image, level, num_images = images_of(3, 17, 19)[:1], 7, 4000
    seeds = torch.arange(num_images)
    noised = RandAugment(dialect, 1, level)(image.expand(num_images, -1, -1, -1), seeds).flatten(1)
    rules, probability = DIALECTS[dialect].rules, DIALECTS[dialect].probability
    share = num_images * probability / len(rules)
    # a cutout of 28 pixels each way covers the image wherever it falls
    results: dict[bytes, float] = {image.numpy().tobytes(): num_images * (1 - probability)}  # expected counts
    for name, rule in rules.items():
        ways = list(itertools.product((1, -1) if rule.signed else (1,), SAMPLINGS))
        for sign, interpolation in ways:
            key = apply_op(image, name, level, sign, dialect, interpolation=interpolation).numpy().tobytes()
            results[key] = results.get(key, 0.0) + share / len(ways)
    for key, expected in results.items():
        result = torch.frombuffer(bytearray(key), dtype=torch.uint8)
        count = int((noised == result).all(dim=1).sum())
        assert abs(count - expected) < 5 * expected**0.5  # five standard deviations


def test_cutout_falls_anywhere() -> None:
    images = torch.zeros(6000, 1, 8, 8, dtype=torch.uint8)
    noised = RandAugment("google", 1, 10, cutout_const=1)(images, torch.arange(6000))
    squares = noised[torch.isin((noised == 128).flatten(1).sum(1), torch.tensor([1, 2, 4]))] == 128
    assert len(squares) > 300
    # a square of 2 x 2 pixels about each of 64 middles: every pixel is hit, the last row and column half as often
    hits = squares.sum(dim=(0, 1))
    assert hits.min() > 0 and hits[:7, :7].float().mean() > 1.5 * hits[7].float().mean()


@pytest.mark.parametrize("dialect", NAMES)
def test_zero_operations_and_empty_batches(dialect: str) -> None:
    images = images_of(3, 8, 8)
    assert torch.equal(RandAugment(dialect, 0, 9)(images, torch.arange(len(images))), images)
    assert RandAugment(dialect, 2, 9)(images[:0], torch.arange(0)).shape == (0, 3, 8, 8)
    for name in DIALECTS[dialect].rules:
        assert apply_op(images[:0], name, 9, dialect=dialect).shape == (0, 3, 8, 8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dialect", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_cuda_equals_cpu_within_one_grey_level(channels: int, dialect: str) -> None:
    images = torch.randint(0, 256, (256, channels, 64, 48), dtype=torch.uint8)
    augment, seeds = RandAugment(dialect, 2, 27), torch.arange(256)
    on_gpu = augment(images.cuda(), seeds.cuda()).cpu()
    assert (augment(images, seeds).int() - on_gpu.int()).abs().max() <= 1


GOOD, SEEDS = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.arange(2)


@pytest.mark.parametrize(
    ("images", "seeds", "message"),
    [
        (GOOD.float(), SEEDS, "images are torch.float32: must be torch.uint8"),
        (GOOD[0], SEEDS, r"shape \[3, 8, 8\]: must be \[B, C, H, W\]"),
        (GOOD.permute(0, 2, 3, 1), SEEDS, r"shape \[2, 8, 8, 3\]: must be"),
        (GOOD, torch.arange(3), r"seeds are torch.int64 \[3\]: must be torch.int64 \[2\]"),
        (GOOD, SEEDS.float(), r"seeds are torch.float32 \[2\]: must be"),
    ],
)
def test_bad_images_and_seeds(images: Tensor, seeds: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandAugment("torchvision", 2, 9)(images, seeds)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("randaug", 2, 9), "dialect='randaug': unknown; use one of google, timm, torchvision"),
        (("torchvision", -1, 9), "num_ops=-1: must be >= 0"),
        (("torchvision", 2, 31), r"magnitude=31: must be a whole number in \[0, 30\]"),
        (("torchvision", 2, 4.5), "magnitude=4.5: must be a whole number"),
        (("google", 2, -1), "magnitude=-1: must be >= 0 and finite; the paper uses 27"),
        (("timm", 2, float("nan")), "magnitude=nan: must be >= 0"),
    ],
)
def test_bad_settings(arguments: tuple[str, int, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandAugment(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "Twirl"}, "name='Twirl': unknown operation of 'google'; use one of AutoContrast, Equalize"),
        ({"name": "Identity", "dialect": "timm"}, "name='Identity': unknown operation of 'timm'"),
        ({"name": "ShearX", "sign": 0}, "sign=0: must be 1 or -1"),
        ({"name": "ShearX", "level": -2}, "level=-2: must be >= 0"),
        ({"name": "Cutout", "cutout_const": -1}, "cutout_const=-1: must be >= 0"),
        ({"name": "TranslateX", "translate_const": float("inf")}, "translate_const=inf: must be >= 0 and finite"),
        ({"name": "Cutout", "centres": torch.zeros(3, 2)}, r"centres have shape \[3, 2\]: must be \[2, 2\]"),
    ],
)
def test_bad_operations(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        apply_op(GOOD, **{"level": 9, **arguments})
