"""Snow and fog.

Images are uint8 [B, 3, S, S]; results are uint8, or float32 in grey levels 0 to 255.
"""

import math

import torch
from torch import Tensor

from noisystudent_core.evaluation.corruptions import separable
from noisystudent_core.evaluation.corruptions.blur import smear
from noisystudent_core.evaluation.corruptions.constants import Generator
from noisystudent_core.evaluation.corruptions.pixels import luma, truncated
from noisystudent_core.evaluation.draws import Draws


def snow(images: Tensor, constants: tuple[float, ...], draws: Draws, generator: Generator) -> Tensor:
    """Whiten the image and let flakes fall, and the same flakes turned by 180 degrees."""
    mean, deviation, factor, threshold, radius, sigma, share = constants
    trimmed = generator == "cifar10_c"
    flakes = fallen(images.shape[-1], (mean, deviation, factor, threshold), draws, trimmed=trimmed)
    degrees_B = draws.uniform(1) * 90 - 135
    return snowed(images.float(), smear(flakes, radius, sigma, degrees_B), share)


def fallen(size: int, constants: tuple[float, float, float, float], draws: Draws, *, trimmed: bool) -> Tensor:
    """Flakes before they are smeared: float32 [B, 1, L, L] in grey levels, L >= size.

    `trimmed`: whole grey levels [B, 1, size, size], as in the authors' scripts, which hand them to ImageMagick.
    """
    mean, deviation, factor, threshold = constants
    inner = math.ceil(size / factor)
    noise = draws.normal(0, 1, inner, inner).mul_(deviation).add_(mean)
    flakes = separable.flakes(inner, factor, noise.device)(noise)
    flakes = flakes.where(flakes >= threshold, 0).clamp_(0, 1).mul_(255)
    if not trimmed:
        return flakes
    start = (flakes.shape[-1] - size) // 2
    return truncated(flakes[..., start : start + size, start : start + size]).float()


def snowed(images: Tensor, flakes: Tensor, share: float) -> Tensor:
    """Flakes [B, 1, L, L], cut to the image and rounded, upon the image, of which a `share` stays as it is."""
    size = images.shape[-1]
    flakes = flakes[..., :size, :size].round()
    white = torch.maximum(images, luma(images) * 1.5 + 127.5)
    return torch.lerp(white, images, share) + flakes + flakes.rot90(2, (2, 3))


def fog(images: Tensor, constants: tuple[float, float], draws: Draws, generator: Generator) -> Tensor:
    """Add a plasma fractal and scale back by the brightest value."""
    thickness, decay = constants
    size = images.shape[-1]
    fractal = _plasma(1 << (size - 1).bit_length(), decay, draws)[:, None, :size, :size]
    brightest = images.amax((1, 2, 3), keepdim=True) / 255
    return (images + fractal * (255 * thickness)) * (brightest / (brightest + thickness))


def _plasma(size: int, decay: float, draws: Draws) -> Tensor:
    """Heights from 0 to 1 by the diamond-square algorithm on a torus: float32 [B, size, size], a power of two.

    Each step sets the middles of squares and of their sides to the mean of four neighbours plus noise within the square
    of an amplitude that starts at 100 and is divided by `decay`.
    """
    wobble = draws.uniform(0, size, size).mul_(2).sub_(1)
    heights = torch.zeros_like(wobble)
    step, amplitude = size, 100.0
    while step >= 2:
        half, scale = step // 2, amplitude**2

        def filled(total: Tensor, rows: slice, columns: slice, scale: float = scale) -> None:
            heights[:, rows, columns] = total / 4 + wobble[:, rows, columns] * scale

        at, between = slice(0, None, step), slice(half, None, step)
        corners = heights[:, at, at]
        total = corners + corners.roll(-1, 1)
        filled(total + total.roll(-1, 2), between, between)
        middles, corners = heights[:, between, between], heights[:, at, at]
        filled(middles + middles.roll(1, 1) + corners + corners.roll(-1, 2), at, between)
        filled(middles + middles.roll(1, 2) + corners + corners.roll(-1, 1), between, at)
        step, amplitude = half, amplitude / decay
    heights -= heights.amin((1, 2), keepdim=True)
    return heights / heights.amax((1, 2), keepdim=True)
