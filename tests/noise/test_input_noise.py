"""Input noise as a whole: what its settings leave out stays out, and images are kept at the size that it asks for."""

from typing import Literal

import pytest
import torch

from noisystudent_core.config import InputNoise
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.noise.input_noise import InputNoiser, source_geometry

IMAGES = torch.randint(0, 256, (20, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
SEEDS = torch.arange(20)
MODES: tuple[Literal["zero", "reflect"], ...] = ("zero", "reflect")


def test_no_noise_gives_the_image_itself() -> None:
    noiser = InputNoiser(InputNoise(num_ops=0, crop="none", flip=False), 16)
    assert torch.equal(noiser(IMAGES, SEEDS), IMAGES)


@pytest.mark.parametrize(
    "noise",
    [
        InputNoise(num_ops=0, crop="none", flip=True),
        InputNoise(num_ops=0, crop="translate", flip=False),
        InputNoise(num_ops=0, crop="resized", flip=False),
        InputNoise(num_ops=0, crop="none", flip=False, cutout_px=4),
        InputNoise(dialect="torchvision", num_ops=2, magnitude=9, crop="none", flip=False),
    ],
    ids=["flip", "translate", "resized", "cutout", "randaugment"],
)
def test_each_noise_is_felt_alone(noise: InputNoise) -> None:
    noised = InputNoiser(noise, 16)(IMAGES, SEEDS)
    assert noised.shape == IMAGES.shape
    assert (noised != IMAGES).flatten(1).any(1).sum() >= 2


def test_whole_images_are_decoded_as_in_evaluation() -> None:
    assert source_geometry(InputNoise(crop="none"), 224, 0.875) == (224, 0.875)
    assert source_geometry(InputNoise(crop="resized"), 224, 0.875) == (256, 1.0)  # room for boxes
    assert source_geometry(InputNoise(crop="translate"), 224, 0.875) == (224, 1.0)


def test_translation_pads_with_black_or_mirrors() -> None:
    bright = torch.full((20, 3, 16, 16), 255, dtype=torch.uint8)
    noises = {mode: InputNoise(num_ops=0, crop="translate", crop_padding_mode=mode, flip=False) for mode in MODES}
    dark = {mode: (InputNoiser(noise, 16)(bright, SEEDS) == 0).any().item() for mode, noise in noises.items()}
    assert dark == {"zero": True, "reflect": False}


def test_reflection_wider_than_the_image_is_refused_before_an_image_is_read() -> None:
    noise = InputNoise(crop="translate", crop_padding_px=16, crop_padding_mode="reflect")
    InputNoiser(noise, 17)
    with pytest.raises(ConfigurationError, match="padding=16: must be >= 0, and to reflect below the image's 16 x 16"):
        InputNoiser(noise, 16)


def test_cutout_has_a_middle() -> None:
    with pytest.raises(ValueError, match="multiple of 2"):
        InputNoise(cutout_px=15)
