"""All input noise of a training image, in order: crop, flip, RandAugment, cutout."""

from torch import Tensor

from noisystudent_core.config.settings import InputNoise
from noisystudent_core.noise.randaugment import RandAugment
from noisystudent_core.noise.standard import (
    check_padding,
    random_crop_pad,
    random_cutout,
    random_flip,
    random_resized_crop,
)


class InputNoiser:
    """`noiser(images, seeds_B)`: uint8 [B, C, R, R] of `source_geometry` to [B, C, S, S], each by its own seed."""

    def __init__(self, noise: InputNoise, resolution_px: int) -> None:
        self._noise, self._resolution_px = noise, resolution_px
        self._augment = rand_augment(noise) if noise.num_ops else None
        if noise.crop == "translate":
            check_padding(noise.crop_padding_px, noise.crop_padding_mode, resolution_px, resolution_px)

    def __call__(self, images: Tensor, seeds_B: Tensor) -> Tensor:
        """Noise a batch; the same image and seed give the same pixels in any batch."""
        if self._noise.crop == "resized":
            images = random_resized_crop(images, self._resolution_px, seeds_B, scale=(self._noise.crop_min_area, 1.0))
        elif self._noise.crop == "translate" and self._noise.crop_padding_px:
            padding, mode = self._noise.crop_padding_px, self._noise.crop_padding_mode
            images = random_crop_pad(images, padding, seeds_B, mode)
        if self._noise.flip:
            images = random_flip(images, seeds_B)
        if self._augment:
            images = self._augment(images, seeds_B)
        return random_cutout(images, self._noise.cutout_px, seeds_B) if self._noise.cutout_px else images


def rand_augment(noise: InputNoise) -> RandAugment:
    """RandAugment as set; raises ConfigurationError for a magnitude that the dialect does not know."""
    constants = {"translate_const": noise.translate_const, "cutout_const": noise.cutout_const}
    return RandAugment(noise.dialect, noise.num_ops, noise.magnitude, **constants)


def source_geometry(noise: InputNoise, resolution_px: int, crop_fraction: float) -> tuple[int, float]:
    """Size and crop fraction that training images are decoded at.

    With room around the crop where boxes are cut out of them, whole where they are moved, as in evaluation where
    nothing is cropped.
    """
    if noise.crop == "resized":
        return round(resolution_px / crop_fraction), 1.0
    return resolution_px, crop_fraction if noise.crop == "none" else 1.0
