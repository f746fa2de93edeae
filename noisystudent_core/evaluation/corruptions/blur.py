"""Defocus, frosted glass, motion and zoom.

Images are uint8 [B, 3, S, S]; results are uint8, or float32 in grey levels 0 to 255.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from noisystudent_core.evaluation.corruptions import separable
from noisystudent_core.evaluation.corruptions.constants import Generator
from noisystudent_core.evaluation.corruptions.pixels import truncated, windows
from noisystudent_core.evaluation.draws import Draws

# an iteration of `glass_blur` hands a pixel on with probability 5/16 (reach 2) to 0.42 (reach 4): 2^6 times never
_DOUBLINGS = 6


def defocus(images: Tensor, constants: tuple[float, float], draws: Draws, generator: Generator) -> Tensor:
    """Average over a disk."""
    return separable.disk(images.shape[-1], *constants, images.device)(images.float())


def zoom(images: Tensor, constants: tuple[float, ...], draws: Draws, generator: Generator) -> Tensor:
    """Average over growing zooms into the middle."""
    return separable.mean_zoom(images.shape[-1], constants, generator == "cifar10_c", images.device)(images.float())


def glass(images: Tensor, constants: tuple[float, int, int], draws: Draws, generator: Generator) -> Tensor:
    """Blur, replace each pixel by one nearby, blur.

    The published code means to swap two pixels, but its two sides are views of one array: the second assignment reads
    what the first has written, so that a pixel is copied and nothing is swapped. So it is here.
    """
    sigma, reach, rounds = constants
    blur = separable.gaussian(images.shape[-1], sigma, "nearest", 4.0, images.device)
    flat = truncated(blur(images.float())).flatten(2)
    for number in range(rounds):
        places = _sources(draws.bits(number, flat.shape[2]), images.shape[-1], reach)
        flat = flat.gather(2, places[:, None].expand(-1, flat.shape[1], -1))
    return blur(flat.view(images.shape).float())


def _sources(bits: Tensor, size: int, reach: int) -> Tensor:
    """For each pixel the one whose value it ends with: int64 [B, S x S], from random bits [B, S x S].

    The published loop goes from the last row to the first and from right to left in each, without a margin of `reach`
    (one more at the start); a pixel reads another at -reach .. reach - 1 in both directions. One that was visited
    before has its own source's value by then, and so on: such chains are followed by doubling, all pixels at once.
    """
    moves = 2 * reach
    dx = ((bits & 0xFFFF) * moves >> 16) - reach
    dy = ((bits >> 16 & 0xFFFF) * moves >> 16) - reach
    pixels = torch.arange(size * size, device=bits.device)
    rows, columns = pixels // size, pixels % size
    inside = (rows > reach) & (rows <= size - reach) & (columns > reach) & (columns <= size - reach)
    sources = torch.where(inside, pixels + dy * size + dx, pixels)
    chained = (sources > pixels) & inside[sources]
    visited = torch.where(chained, sources, pixels)
    for _ in range(_DOUBLINGS):
        visited = visited.gather(1, visited)
    return sources.gather(1, visited)


def motion(images: Tensor, constants: tuple[float, float], draws: Draws, generator: Generator) -> Tensor:
    """Smear each image in a direction of its own, within 45 degrees of the horizontal."""
    radius, sigma = constants
    return smear(images.float(), radius, sigma, (draws.uniform(0) - 0.5) * 90)


def smear(images: Tensor, radius: float, sigma: float, degrees_B: Tensor) -> Tensor:
    """ImageMagick's motion blur: half a Gaussian along a line of 2 x radius + 1 pixels, borders repeated.

    `images` float32 [B, C, H, W]; the tap i pixels along the line reads the pixel nearest to it.
    """
    width = 2 * math.ceil(radius) + 1
    taps = torch.arange(width, dtype=torch.float64)
    weights = torch.exp(-(taps**2) / (2 * sigma**2))
    weights /= weights.sum()
    radians_B = degrees_B.double() * (math.pi / 180)
    along = taps.to(images.device)[:, None]
    rows, columns = ((along * part - 0.5).ceil().long() + width - 1 for part in (radians_B.sin(), radians_B.cos()))
    batch = torch.arange(len(images), device=images.device)
    padded = F.pad(images, (width - 1,) * 4, mode="replicate").permute(0, 2, 3, 1).contiguous()
    shifted = windows(padded, *images.shape[2:])
    smeared = torch.zeros(shifted[batch, 0, 0].shape, device=images.device)
    for weight, row_B, column_B in zip(weights.tolist(), rows, columns, strict=True):
        smeared.add_(shifted[batch, row_B, column_B], alpha=weight)
    return smeared.unflatten(2, (-1, images.shape[1])).permute(0, 3, 1, 2)
