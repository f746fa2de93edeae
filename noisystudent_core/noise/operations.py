"""RandAugment's operations on whole batches: (images uint8 [N, C, H, W], arguments float64 [N, K]) -> uint8.

Arguments are on the host, images anywhere; an operation reads the first columns, one unless it says otherwise.
Arithmetic is exact or rounded the same way everywhere, so that neither the batch, nor its split, nor the device changes
a pixel. Where PIL, torchvision and the paper's code differ by more than one grey level, the difference is a parameter:
their grey, their mean, their rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from noisystudent_core.data import geometry
from noisystudent_core.data.geometry import Sampling

Operation = Callable[[Tensor, Tensor], Tensor]
Grey = Callable[[Tensor], Tensor]  # uint8 [N, 3, H, W] -> whole grey levels, float32 [N, 1, H, W]

NUM_ARGUMENTS = 8


def identity(images: Tensor, _: Tensor) -> Tensor:
    """Return the images as they are."""
    return images


def invert(images: Tensor, _: Tensor) -> Tensor:
    """Take each grey level from 255."""
    return ~images


def brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with black: 0 is black, 1 the image, more is brighter."""
    return _to_uint8(images * _per_image(factors, images))


def colour(images: Tensor, factors: Tensor, *, grey: Grey) -> Tensor:
    """Blend with the grey image: 0 is grey, 1 the image; one channel stays as it is."""
    return images if images.shape[1] == 1 else _blend(grey(images), images, factors)


def contrast(images: Tensor, factors: Tensor, *, mean: Grey) -> Tensor:
    """Blend with a constant, `mean` [N, 1, 1, 1] of the image: 0 is flat, 1 the image."""
    return _blend(mean(images), images, factors)


def sharpness(images: Tensor, factors: Tensor, *, rounded: bool) -> Tensor:
    """Blend with a 3 x 3 blur (centre weight 5 of 13): 0 is blurred, 1 the image; the outermost pixels stay.

    `rounded`: the blur's levels are rounded (PIL, torchvision), else their fraction is dropped (the paper's code).
    """
    if min(images.shape[2:]) <= 2:
        return images
    width = images.shape[3]
    # on flat images, where a neighbour is a fixed distance away; the outermost columns, wrapped, are put back
    flat = images.flatten(2).to(torch.int16)
    across = flat[..., :-2] + flat[..., 1:-1] + flat[..., 2:]
    inner = flat[..., width + 1 : -width - 1]
    total = across[..., : -2 * width] + across[..., width:-width] + across[..., 2 * width :] + inner * 4
    # half a thirteenth keeps whole quotients whole; 13 is odd, so no quotient is a tie
    blurred = total.float().add_(6.5 if rounded else 0.5).mul_(1 / 13).floor_()
    sharpened = images.clone()
    sharpened.flatten(2)[..., width + 1 : -width - 1] = _blend(blurred, inner, factors)
    sharpened[..., :: width - 1] = images[..., :: width - 1]
    return sharpened


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest `bits` (0 to 8) bits of each grey level."""
    masks = 256 - 2 ** (8 - bits[:, 0].to(torch.int64))
    return images & _to(masks.to(torch.uint8), images).view(-1, 1, 1, 1)


def solarize(images: Tensor, thresholds: Tensor) -> Tensor:
    """Invert the grey levels at or above the threshold (0 to 256), compared in float32 as torchvision does."""
    levels = torch.arange(256)
    return _look_up(images, torch.where(levels < thresholds[:, :1].float(), levels, 255 - levels))


def solarize_add(images: Tensor, additions: Tensor) -> Tensor:
    """Add to the grey levels below 128, up to 255."""
    levels = torch.arange(256)
    brightened = (levels + additions[:, :1]).clamp(max=255)
    return _look_up(images, torch.where(levels < 128, brightened, levels))


def auto_contrast(images: Tensor, _: Tensor) -> Tensor:
    """Stretch each channel so that its darkest level is 0 and its brightest 255; a flat channel stays."""
    low, high = (level.float()[..., None, None] for level in images.flatten(2).aminmax(dim=2))
    flat = low == high
    scale = 255 / (high - low).masked_fill(flat, 255)
    return _to_uint8((images - low.masked_fill(flat, 0)) * scale)


def equalize(images: Tensor, _: Tensor) -> Tensor:
    """Flatten each channel's histogram with PIL's integer rule; a channel with too few levels stays."""
    flat = images.flatten(2).to(torch.int64)
    counts = torch.zeros(*flat.shape[:2], 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, flat, torch.ones((), dtype=torch.int64, device=images.device).expand_as(flat))
    cumulative = counts.cumsum(2)
    brightest = counts.gather(2, cumulative.argmax(2, keepdim=True))
    step = (flat.shape[2] - brightest) // 255
    table = ((cumulative - counts + step // 2) // step.clamp(min=1)).clamp_(0, 255)
    table = torch.where(step == 0, torch.arange(256, device=images.device), table).to(torch.uint8)
    return table.gather(2, flat).view_as(images)


def cutout(images: Tensor, squares: Tensor, *, fill: int) -> Tensor:
    """Fill a square. Arguments: half its side, and the row and column of its middle, which may be anywhere."""
    half, row, column = _to(squares[:, :3], images)[:, :, None, None, None].unbind(1)
    rows = torch.arange(images.shape[2], device=images.device)[:, None]
    columns = torch.arange(images.shape[3], device=images.device)
    covered = (rows >= row - half) & (rows < row + half) & (columns >= column - half) & (columns < column + half)
    return images.masked_fill(covered, fill)


@dataclass(frozen=True)
class Warp:
    """A warp by an argument of eight numbers: a matrix [2, 3] row by row, and the x and y it acts about.

    Warps that are equal are done in one go; `moves` says along which axes theirs move pixels.
    """

    moves: str  # "x", "y" or "xy"
    sampling: Sampling
    fill: int

    def __call__(self, images: Tensor, arguments: Tensor) -> Tensor:
        matrices, origins = arguments[:, :6].view(-1, 2, 3), arguments[:, 6:8]
        return geometry.warp(images, matrices, self.fill, sampling=self.sampling, origins=origins)


def tf_grey(images: Tensor) -> Tensor:
    """The paper's code: float levels of [0, 1] are brought back by 255.5, the fraction dropped."""
    return (_weighted(images) * (255.5 / 255)).floor_()


def pil_grey(images: Tensor) -> Tensor:
    """Pillow: 16-bit fixed-point weights, rounded."""
    red, green, blue = images.to(torch.int32).split(1, dim=1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).float()


def torchvision_grey(images: Tensor) -> Tensor:
    """torchvision: the fraction is dropped."""
    return _weighted(images).floor_()


def num_pixels_over_256(images: Tensor) -> Tensor:
    """What the paper's code takes for the mean, by mistake: pixels / 256, at most 255, whatever the image shows."""
    height, width = images.shape[2:]
    return images.new_full((len(images), 1, 1, 1), min(255, height * width // 256), dtype=torch.float32)


def mean_of(grey: Grey, *, rounded: bool) -> Grey:
    """The mean of an image's grey levels, rounded (PIL) or not (torchvision)."""

    def mean(images: Tensor) -> Tensor:
        levels = images.float() if images.shape[1] == 1 else grey(images)
        # whole grey levels add up exactly in float64, in any order
        exact = levels.sum(dim=(1, 2, 3), keepdim=True, dtype=torch.float64) / levels[0].numel()
        return ((exact + 0.5).floor() if rounded else exact).float()

    return mean


def around_one(operation: Operation) -> Operation:
    """Read a signed strength v as the blend factor 1 + v."""
    return lambda images, strengths: operation(images, 1 + strengths)


def _blend(start: Tensor, end: Tensor, factors: Tensor) -> Tensor:
    """start + factor (end - start): 0 is `start`, 1 is `end`, more goes beyond it."""
    return _to_uint8((end - start).mul_(_per_image(factors, end)).add_(start))


def _weighted(images: Tensor) -> Tensor:
    red, green, blue = images.split(1, dim=1)
    return (red * 0.2989).add_(green * 0.587).add_(blue * 0.114)


def _look_up(images: Tensor, tables: Tensor) -> Tensor:
    """Replace grey level v of image n by tables[n, v]; `tables` [N, 256] of whole levels, on the host."""
    table = _to(tables.to(torch.uint8), images)[:, None].expand(-1, images.shape[1], -1)
    return table.gather(2, images.flatten(2).to(torch.int64)).view_as(images)


def _per_image(arguments: Tensor, images: Tensor) -> Tensor:
    return _to(arguments[:, 0].float(), images).view(-1, *[1] * (images.ndim - 1))


def _to(values: Tensor, images: Tensor) -> Tensor:
    """Onto the images' device, without waiting for it."""
    return values.to(images.device, non_blocking=True)


def _to_uint8(grey_levels: Tensor) -> Tensor:
    """Clip to [0, 255] and drop the fraction, by way of int16, which is four times as fast on a CPU."""
    return grey_levels.clamp_(0, 255).to(torch.int16).to(torch.uint8)
