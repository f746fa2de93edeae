"""All input noise of a training image, in order: crop, flip, RandAugment."""

from torch import Tensor

from noisystudent_core.config.settings import InputNoise
from noisystudent_core.noise.randaugment import RandAugment
from noisystudent_core.noise.standard import random_crop_pad, random_flip, random_resized_crop


class InputNoiser:
    """`noiser(images, seeds_B)`: uint8 [B, C, R, R] of `source_px` to uint8 [B, C, S, S], each by its own seed."""

    def __init__(self, noise: InputNoise, resolution_px: int) -> None:
        self._noise, self._resolution_px = noise, resolution_px
        self._augment = RandAugment(noise.dialect, noise.num_ops, noise.magnitude) if noise.num_ops else None

    def __call__(self, images: Tensor, seeds_B: Tensor) -> Tensor:
        """Noise a batch; the same image and seed give the same pixels in any batch."""
        if self._noise.crop == "resized":
            images = random_resized_crop(images, self._resolution_px, seeds_B, scale=(self._noise.crop_min_area, 1.0))
        elif self._noise.crop_padding_px:
            images = random_crop_pad(images, self._noise.crop_padding_px, seeds_B)
        if self._noise.flip:
            images = random_flip(images, seeds_B)
        return self._augment(images, seeds_B) if self._augment else images


def source_px(noise: InputNoise, resolution_px: int, crop_fraction: float) -> int:
    """The size training images are kept at: with room around the crop where boxes are cut out of them."""
    return round(resolution_px / crop_fraction) if noise.crop == "resized" else resolution_px
