"""RandAugment against torchvision's own functions, and its promises: per-image, whatever the batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import RandAugment as TorchvisionRandAugment

from noisystudent_core.noise.randaugment import DIALECTS, RandAugment, apply_op

RULES = DIALECTS["torchvision"].rules
SIZES = [(8, 8), (9, 13), (32, 32), (64, 48)]


def images_of(channels: int, height: int, width: int) -> Tensor:
    """Two random images, the same in two grey levels, a smooth one and a flat one."""
    generator = torch.Generator().manual_seed(height * width + channels)
    shape = (2, channels, height, width)
    random = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    ramp = torch.linspace(20, 230, height * width).view(1, 1, height, width).expand(1, channels, -1, -1)
    smooth = (ramp * torch.linspace(0.5, 1, channels).view(1, -1, 1, 1)).to(torch.uint8)
    flat = torch.full((1, channels, height, width), 77, dtype=torch.uint8)
    return torch.cat((random, random // 128 * 200, smooth, flat))


def torchvision_op(images: Tensor, name: str, level: int, sign: int) -> Tensor:
    """torchvision's own dispatch, its random draws replaced by `name` and `sign`."""
    magnitudes_of, signed = TorchvisionRandAugment._AUGMENTATION_SPACE[name]
    magnitudes = magnitudes_of(31, *images.shape[-2:])
    magnitude = 0.0 if magnitudes is None else float(magnitudes[level]) * (sign if signed else 1)
    transform = TorchvisionRandAugment()
    noised = transform._apply_image_or_video_transform(images, name, magnitude, "nearest", transform._fill)
    assert isinstance(noised, Tensor)
    return noised


def test_operations_are_torchvisions() -> None:
    space = TorchvisionRandAugment._AUGMENTATION_SPACE
    assert {name: rule.signed for name, rule in RULES.items()} == {name: entry[1] for name, entry in space.items()}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", RULES)
def test_each_operation_equals_torchvisions_within_one_grey_level(name: str, channels: int) -> None:
    for height, width in SIZES:
        images = images_of(channels, height, width)
        for level in (1, 9, 20, 27, 30):
            for sign in (1, -1):
                ours = apply_op(images, name, level, sign)
                theirs = torchvision_op(images, name, level, sign)
                assert (ours.int() - theirs.int()).abs().max() <= 1, (height, width, level, sign)


@pytest.mark.parametrize("name", ["Brightness", "Color", "Contrast", "Sharpness", "Rotate", "ShearX", "TranslateY"])
def test_level_zero_changes_nothing(name: str) -> None:
    images = images_of(3, 16, 16)
    assert torch.equal(apply_op(images, name, 0), images)


@settings(max_examples=25, deadline=None)
@given(
    channels=st.sampled_from([1, 3]),
    height=st.integers(8, 80),
    width=st.integers(8, 80),
    num_images=st.integers(0, 9),
    magnitude=st.integers(0, 30),
    seed=st.integers(-(2**63), 2**63 - 1 - 16),
)
def test_shape_type_and_input_are_kept(
    channels: int, height: int, width: int, num_images: int, magnitude: int, seed: int
) -> None:
    images = torch.randint(0, 256, (num_images, channels, height, width), dtype=torch.uint8)
    before = images.clone()
    noised = RandAugment("torchvision", 2, magnitude)(images, seed + torch.arange(num_images))
    assert noised.shape == images.shape and noised.dtype == torch.uint8
    assert torch.equal(images, before)


@settings(max_examples=15, deadline=None)
@given(split=st.integers(1, 63), order_seed=st.integers(0, 1000), num_threads=st.sampled_from([1, 2]))
def test_no_batch_split_order_or_thread_count_changes_an_image(split: int, order_seed: int, num_threads: int) -> None:
    images = torch.randint(0, 256, (64, 3, 33, 31), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    seeds = torch.arange(1000, 1064)
    augment = RandAugment("torchvision", 3, 27)
    whole = augment(images, seeds)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(order_seed))
    threads_before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        parts = [augment(images[rows], seeds[rows]) for rows in (order[:split], order[split:])]
    finally:
        torch.set_num_threads(threads_before)
    assert torch.equal(torch.cat(parts), whole[order])


def test_contrast_of_one_large_image_does_not_depend_on_its_batch() -> None:
    images = torch.randint(0, 256, (3, 3, 400, 401), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    assert torch.equal(apply_op(images, "Contrast", 27)[1:2], apply_op(images[1:2], "Contrast", 27))


def test_operations_are_drawn_evenly_and_both_signs_occur() -> None:
    image = images_of(3, 16, 16)[:1]
    noised = RandAugment("torchvision", 1, 20)(image.expand(2800, -1, -1, -1), torch.arange(2800)).flatten(1)
    for name, rule in RULES.items():
        for sign in (1, -1) if rule.signed else (1,):
            count = (noised == apply_op(image, name, 20, sign).flatten()).all(dim=1).sum()
            expected = 100 if rule.signed else 200
            # five standard deviations
            assert abs(count - expected) < 5 * expected**0.5, (name, sign)


def test_zero_operations_and_empty_batches() -> None:
    images = images_of(3, 8, 8)
    assert torch.equal(RandAugment("torchvision", 0, 9)(images, torch.arange(len(images))), images)
    for name in RULES:
        assert apply_op(images[:0], name, 9).shape == (0, 3, 8, 8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("channels", [1, 3])
def test_cuda_equals_cpu_within_one_grey_level(channels: int) -> None:
    images = torch.randint(0, 256, (256, channels, 64, 48), dtype=torch.uint8)
    augment, seeds = RandAugment("torchvision", 2, 27), torch.arange(256)
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
        (("randaug", 2, 9), "dialect='randaug': unknown; use one of torchvision"),
        (("torchvision", -1, 9), "num_ops=-1: must be >= 0"),
        (("torchvision", 2, -1), r"level=-1: must be a whole number in \[0, 30\]"),
        (("torchvision", 2, 31), "level=31: must be"),
        (("torchvision", 2, 4.5), "level=4.5: must be a whole number"),
    ],
)
def test_bad_settings(arguments: tuple[str, int, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandAugment(*arguments)


def test_bad_operation_and_sign() -> None:
    with pytest.raises(
        ValueError, match="name='Twirl': unknown operation of 'torchvision'; use one of Identity, ShearX"
    ):
        apply_op(GOOD, "Twirl", 9)
    with pytest.raises(ValueError, match="sign=0: must be 1 or -1"):
        apply_op(GOOD, "ShearX", 9, sign=0)
