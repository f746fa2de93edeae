"""Standard augmentation: every result is a shift, a mirror image or a crop of its image, whatever the batch."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from noisystudent_core.errors import ConfigurationError
from noisystudent_core.noise import standard
from noisystudent_core.noise.standard import random_crop_pad, random_cutout, random_flip, random_resized_crop

IMAGES = torch.randint(1, 256, (40, 3, 12, 15), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
SEEDS = torch.arange(40)
NOISES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "crop_pad": lambda images, seeds: random_crop_pad(images, 4, seeds),
    "crop_pad_reflect": lambda images, seeds: random_crop_pad(images, 4, seeds, mode="reflect"),
    "flip": random_flip,
    "cutout": lambda images, seeds: random_cutout(images, 6, seeds),
    "resized_crop": lambda images, seeds: random_resized_crop(images, 8, seeds),
}


@pytest.mark.parametrize(("mode", "torch_mode"), [("zero", "constant"), ("reflect", "reflect")])
def test_crop_pad_is_one_of_the_crops_of_the_padded_image(mode: str, torch_mode: str) -> None:
    image = IMAGES[:1]
    cropped = random_crop_pad(image.expand(500, -1, -1, -1), 2, torch.arange(500), mode=mode)  # pyright: ignore[reportArgumentType]
    padded = F.pad(image.float(), (2, 2, 2, 2), mode=torch_mode).to(torch.uint8)
    crops = [padded[0, :, y : y + 12, x : x + 15] for y in range(5) for x in range(5)]
    hits = torch.stack([(cropped == crop).flatten(1).all(dim=1) for crop in crops])
    # every result is exactly one of the 25 crops, and each is drawn about 20 times
    assert (hits.sum(dim=0) == 1).all() and hits.sum(dim=1).min() >= 5


def test_flip_mirrors_about_half_of_the_images() -> None:
    image = IMAGES[:1]
    flipped = random_flip(image.expand(1000, -1, -1, -1), torch.arange(1000))
    mirrored = (flipped == image.flip(-1)).flatten(1).all(dim=1)
    kept = (flipped == image).flatten(1).all(dim=1)
    assert (mirrored ^ kept).all() and 400 < mirrored.sum() < 600


def test_cutout_is_a_grey_square_about_each_pixel_alike() -> None:
    image = torch.zeros(1, 3, 6, 6, dtype=torch.uint8)
    grey = random_cutout(image.expand(3600, -1, -1, -1), 2, torch.arange(3600))[:, 0] == 128
    squares = torch.zeros(6, 6, 6, 6, dtype=torch.bool)
    for y, x in torch.cartesian_prod(torch.arange(6), torch.arange(6)).tolist():
        squares[y, x, max(0, y - 1) : y + 1, max(0, x - 1) : x + 1] = True  # rows y - 1 and y, cut at the edge
    hits = (grey[:, None] == squares.view(1, 36, 6, 6)).flatten(2).all(dim=2)
    # every result is exactly one of the 36 squares, and each is drawn about 100 times
    assert (hits.sum(dim=1) == 1).all() and hits.sum(dim=0).min() >= 60


def test_cutout_leaves_the_rest_of_the_image() -> None:
    cut = random_cutout(IMAGES, 6, SEEDS)
    assert ((cut == IMAGES) | (cut == 128)).all()
    assert (cut != IMAGES).any(dim=1).flatten(1).sum(1).max() <= 36


def test_resized_crop_of_the_whole_image_is_a_plain_resize() -> None:
    square = IMAGES[..., :12]
    assert torch.equal(random_resized_crop(square, 12, SEEDS, scale=(1, 1), ratio=(1, 1)), square)


def test_resized_crop_boxes_keep_to_scale_and_ratio() -> None:
    # a ramp along each axis shows the box: the spread of the crop's values is its size
    ramp = torch.arange(200, dtype=torch.uint8)
    images = torch.stack((ramp[:, None].expand(200, 200), ramp.expand(200, 200), ramp.expand(200, 200))).expand(
        300, -1, -1, -1
    )
    crops = random_resized_crop(images, 16, torch.arange(300), scale=(0.1, 0.5)).float()
    # away from the edges, which the filter pulls inwards: pixels 2 and 13 are 11/16 of the box apart
    height = (crops[:, 0, 13, 0] - crops[:, 0, 2, 0]) * 16 / 11
    width = (crops[:, 1, 0, 13] - crops[:, 1, 0, 2]) * 16 / 11
    share, ratio = height * width / 200**2, width / height
    assert 0.09 < share.min() < 0.13 and 0.45 < share.max() < 0.53
    assert 0.7 < ratio.min() < 0.8 and 1.25 < ratio.max() < 1.42


@pytest.mark.parametrize("size", [5, 12, 33])
def test_resize_by_matrices_is_torchvisions_within_one_grey_level(size: int) -> None:
    boxes = standard._boxes(IMAGES, SEEDS, (0.08, 1.0), (3 / 4, 4 / 3))
    expected = standard._resized_one_by_one(IMAGES, boxes, size)
    assert (standard._resized(IMAGES, boxes, size).int() - expected.int()).abs().max() <= 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", NOISES)
def test_cuda_equals_cpu_within_one_grey_level(name: str) -> None:
    on_gpu = NOISES[name](IMAGES.cuda(), SEEDS.cuda()).cpu()
    assert (NOISES[name](IMAGES, SEEDS).int() - on_gpu.int()).abs().max() <= 1


def test_resized_crop_where_no_box_fits_is_the_largest_centred_one() -> None:
    strip = torch.arange(240, dtype=torch.uint8).repeat(1, 1, 4, 1)
    crop = random_resized_crop(strip, 4, torch.tensor([5]), scale=(1, 1), ratio=(1, 1))
    assert torch.equal(crop, strip[..., 118:122])


@pytest.mark.parametrize("name", NOISES)
@settings(max_examples=10, deadline=None)
@given(rows=st.lists(st.integers(0, 39), max_size=40, unique=True))
def test_no_split_changes_an_image(name: str, rows: list[int]) -> None:
    chosen = torch.tensor(rows, dtype=torch.int64)
    assert torch.equal(NOISES[name](IMAGES[chosen], SEEDS[chosen]), NOISES[name](IMAGES, SEEDS)[chosen])


@pytest.mark.parametrize("name", NOISES)
def test_bad_images_and_seeds(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"images are torch.float32: must be torch.uint8"):
        NOISES[name](IMAGES.float(), SEEDS)
    with pytest.raises(ConfigurationError, match=r"seeds are torch.int64 \[39\]: must be torch.int64 \[40\]"):
        NOISES[name](IMAGES, SEEDS[1:])


def test_bad_settings() -> None:
    with pytest.raises(ConfigurationError, match="padding=-1: must be >= 0"):
        random_crop_pad(IMAGES, -1, SEEDS)
    with pytest.raises(ConfigurationError, match=r"padding=12: .* below the image's 12 x 15 pixels"):
        random_crop_pad(IMAGES, 12, SEEDS, mode="reflect")
    with pytest.raises(ConfigurationError, match=r"scale=\(0.5, 2\)"):
        random_resized_crop(IMAGES, 8, SEEDS, scale=(0.5, 2))
