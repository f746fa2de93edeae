"""Sequences of frames: their lengths, and frames by hand."""

import math

import pytest
import torch
from torch import Tensor

from noisystudent_core.errors import ConfigurationError
from noisystudent_core.evaluation.perturbations import NAMES, perturbation_sequence

SEEDS = torch.arange(40, 43)
# OpenCV 4.11's warpPerspective of `coded` at the last frame, every tenth pixel of red and green
TILTED = [
    [[13, 84, 161, 246], [8, 82, 163, 163], [3, 80, 164, 0], [0, 73, 0, 0]],
    [[8, 6, 4, 2], [79, 80, 81, 54], [156, 161, 166, 0], [165, 233, 0, 0]],
]


def coded(size: int = 32) -> Tensor:
    """A pixel's column in red, its row in green."""
    axis = (torch.arange(size) * (256 // size)).to(torch.uint8)
    return torch.stack((axis.expand(size, size), axis[:, None].expand(size, size), torch.zeros(size, size).byte()))[
        None
    ]


def sequence(images: Tensor, name: str, **settings) -> Tensor:
    return perturbation_sequence(images, name, torch.arange(len(images)), **settings)


def test_lengths_are_the_published_ones() -> None:
    cifar = [len(sequence(coded(), name)) for name in NAMES]
    assert cifar == [31, 31, 21, 31, 31, 31, 16, 31, 31, 31]
    imagenet = [len(sequence(coded(), name, generator="imagenet_c")) for name in NAMES]
    assert imagenet == [31, 31, 31, 31, 31, 31, 41, 31, 31, 31]


@pytest.mark.parametrize("name", NAMES)
def test_draws_are_a_function_of_the_images_seed(name: str) -> None:
    images = torch.randint(0, 256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    whole = perturbation_sequence(images, name, SEEDS)
    assert whole.dtype == torch.uint8 and whole.shape[1:] == images.shape
    assert torch.equal(whole[:, 1:2], perturbation_sequence(images[1:2], name, SEEDS[1:2]))
    other = perturbation_sequence(images, name, SEEDS + 99)
    assert torch.equal(whole, other) == (name not in ("gaussian_noise", "shot_noise", "snow"))
    assert len(whole.unique(dim=0)) > len(whole) // 2  # four degrees less may be the same pixels


def test_noise_begins_with_the_clean_image_and_is_drawn_anew() -> None:
    grey = torch.full((20, 3, 32, 32), 128, dtype=torch.uint8)
    for name, deviation in (("gaussian_noise", 0.02 * 255), ("shot_noise", math.sqrt(128 / 255 / 700) * 255)):
        noised = sequence(grey, name)
        assert torch.equal(noised[0], grey)
        assert float(noised[1:].float().std()) == pytest.approx(deviation, rel=0.02)
        assert float(torch.corrcoef(noised[1:3].float().flatten(1))[0, 1]) == pytest.approx(0, abs=0.02)


def test_frames_move_the_image() -> None:
    images, c = coded(), 15  # the middle frame of 31
    shifted = sequence(images, "translate")  # from 7 pixels to the left to 8 to the right
    assert torch.equal(shifted[7], images)
    assert torch.equal(shifted[9][..., 2:], images[..., :-2]) and not shifted[9][..., :2].any()
    assert torch.equal(shifted[0][..., :-7], images[..., 7:]) and not shifted[0][..., -7:].any()
    assert torch.equal(sequence(images, "rotate")[c], images) and torch.equal(sequence(images, "scale")[c], images)
    assert torch.equal(sequence(images, "brightness")[c], images)
    assert torch.equal(sequence(images, "zoom_blur")[0], images)


def test_rotation_is_clockwise_about_the_middle() -> None:
    right_to_down = sequence(coded(), "rotate")[30, 0, :2].float()  # by 15 degrees
    x, y = 24 - 15.5, 15 - 15.5
    c, s = math.cos(math.radians(15)), math.sin(math.radians(15))
    expected = [8 * (15.5 + c * x + s * y), 8 * (15.5 - s * x + c * y)]
    assert right_to_down[:, 15, 24].tolist() == pytest.approx(expected, abs=1)


def test_scale_goes_from_small_to_large() -> None:
    scaled = sequence(coded(), "scale").float()
    for frame, scale in ((0, 0.7), (30, 1.3)):
        assert float(scaled[frame, 0, 0, 16, 20]) == pytest.approx(8 * (15.5 + 4.5 / scale), abs=1)
    assert not scaled[0, 0, :, :4].any()  # black comes in
    imagenet = sequence(coded(), "scale", generator="imagenet_c").float()
    assert float(imagenet[0, 0, 0, 16, 20]) == pytest.approx(8 * (15.5 + 4.5 / 0.4), abs=1)


def test_tilt_is_opencvs_projection() -> None:
    tilted = sequence(coded(), "tilt")[30, 0, :2, ::10, ::10].int()
    expected = torch.tensor(TILTED)
    assert int((tilted - expected).abs().max()) <= 4  # OpenCV reads at whole 32nds of a pixel


def test_zoom_blur_is_the_mean_of_the_frames_so_far() -> None:
    blurred = sequence(coded(), "zoom_blur").float()
    red = [8 * (15.5 + 11.5 / (1 + 0.004 * i)) for i in range(31)]  # of column 27
    assert float(blurred[30, 0, 0, 16, 27]) == pytest.approx(sum(red) / 31, abs=1)


def test_motion_blur_turns_to_the_horizontal() -> None:
    lines = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    lines[:, :, 16] = 255
    blurred = sequence(lines, "motion_blur")
    assert torch.equal(blurred[20], lines)  # along the line: 0 degrees
    assert torch.equal(blurred[0], lines)  # -180
    assert int(blurred[10].max()) < 130  # -90: across


def test_snow_turns_and_its_flakes_stay() -> None:
    snowed = sequence(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), "snow").float()  # 0.15 x 127.5 without a flake
    assert int(snowed.min()) == 19
    fallen = (snowed - 19.125).clamp(min=0).mean((1, 2, 3, 4))
    assert float(fallen.min()) > 0.8 * float(fallen.max()) > 3


def test_a_crop_lets_pixels_in_from_the_sides() -> None:
    images = coded(64)
    cropped = sequence(images, "translate", crop_px=32)
    assert cropped.shape[2:] == (3, 32, 32)
    assert torch.equal(cropped[9], images[:, :, 16:48, 14:46])
    assert torch.equal(sequence(images, "brightness", crop_px=32)[15], images[:, :, 16:48, 16:48])
    assert (sequence(images, "rotate", crop_px=32)[0, 0, 0] > 0).all()


def test_what_cannot_be_perturbed_is_told() -> None:
    for settings in ({"crop_px": 33}, {"crop_px": 0}):
        with pytest.raises(ConfigurationError, match="must be 1 to 32, the images' side"):
            sequence(coded(), "tilt", **settings)
    with pytest.raises(ConfigurationError, match="perturbation 'shear': must be one of"):
        sequence(coded(), "shear")
    with pytest.raises(ConfigurationError, match=r"must be torch\.uint8"):
        sequence(coded().float(), "tilt")
