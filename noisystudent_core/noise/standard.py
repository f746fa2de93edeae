"""Standard augmentation (random translation, crop, flip, cutout) on uint8 batches, every image from its own seed."""

import math
from typing import Literal

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from noisystudent_core.data.geometry import gather_pixels
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.noise import operations
from noisystudent_core.noise.draws import check_seeds, integers, uniform

# Streams of an image's seed; RandAugment's begin at 1000
_CROP_ROW, _CROP_COLUMN, _FLIP, _CUTOUT_ROW, _CUTOUT_COLUMN = 1, 2, 3, 4, 5
_BOX = 100  # attempt i of a resized crop owns _BOX + 4 i .. _BOX + 4 i + 3
_BOX_ATTEMPTS = 10
GREY = 128  # the fill of the paper's code
Padding = Literal["zero", "reflect"]


def random_crop_pad(images: Tensor, padding: int, seeds_B: Tensor, mode: Padding = "zero") -> Tensor:
    """Pad by `padding` pixels on every side and crop back to the size at a random place (paper table 6: translation).

    `images` uint8 [B, C, H, W], `seeds_B` int64 [B]; returns the same shape. Raises ConfigurationError for a negative
    padding, for a reflection wider than the image, and for images or seeds of another type or shape.
    """
    check_seeds(images, seeds_B)
    height, width = images.shape[2:]
    check_padding(padding, mode, height, width)
    rows = _shifted(seeds_B, _CROP_ROW, padding, height).to(images.device, non_blocking=True)
    columns = _shifted(seeds_B, _CROP_COLUMN, padding, width).to(images.device, non_blocking=True)
    if mode == "reflect":
        rows, columns = _reflect(rows, height), _reflect(columns, width)
    return gather_pixels(images, rows[:, :, None], columns[:, None, :])


def check_padding(padding: int, mode: Padding, height: int, width: int) -> None:
    """Raise ConfigurationError for a negative padding, and for a reflection wider than the image."""
    if padding < 0 or (mode == "reflect" and padding >= min(height, width)):
        raise ConfigurationError(
            f"padding={padding}: must be >= 0, and to reflect below the image's {height} x {width} pixels; "
            "4 is usual at 32 pixels"
        )


def random_cutout(images: Tensor, side_px: int, seeds_B: Tensor) -> Tensor:
    """Fill a grey square of `side_px`, an even number, about a random pixel of each image (DeVries and Taylor 2017).

    The square is cut at the image's edges. The reference does so after RandAugment at 32 px, with 16. `images` uint8
    [B, C, H, W], `seeds_B` int64 [B]; returns the same shape. Raises ConfigurationError as `random_flip` does.
    """
    check_seeds(images, seeds_B)
    height, width = images.shape[2:]
    rows, columns = integers(seeds_B, _CUTOUT_ROW, height), integers(seeds_B, _CUTOUT_COLUMN, width)
    squares = torch.stack([torch.full_like(rows, side_px // 2), rows, columns], dim=1)
    return operations.cutout(images, squares, fill=GREY)


def random_flip(images: Tensor, seeds_B: Tensor) -> Tensor:
    """Mirror each image left to right with probability one half.

    `images` uint8 [B, C, H, W], `seeds_B` int64 [B]; returns the same shape. Raises ConfigurationError for images or
    seeds of another type or shape.
    """
    check_seeds(images, seeds_B)
    flipped = (uniform(seeds_B, _FLIP) < 0.5).to(images.device, non_blocking=True)
    return torch.where(flipped.view(-1, 1, 1, 1), images.flip(-1), images)


def random_resized_crop(
    images: Tensor,
    size: int,
    seeds_B: Tensor,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Tensor:
    """Cut a random box out of each image and resize it to `size` x `size`, antialiased bilinear (Szegedy et al. 2015).

    `scale` bounds the box's share of the image's area, `ratio` its width over its height. `images` uint8 [B, C, H, W],
    `seeds_B` int64 [B]; returns uint8 [B, C, size, size]. Raises ConfigurationError for a size below 1, bounds out of
    order, and images or seeds of another type or shape.
    """
    check_seeds(images, seeds_B)
    if size < 1 or not 0 < scale[0] <= scale[1] <= 1 or not 0 < ratio[0] <= ratio[1]:
        raise ConfigurationError(
            f"size={size}, scale={scale}, ratio={ratio}: must be size >= 1, 0 < scale[0] <= scale[1] <= 1 and "
            "0 < ratio[0] <= ratio[1]; the usual bounds are (0.08, 1) and (3/4, 4/3)"
        )
    boxes = _boxes(images, seeds_B, scale, ratio)
    return _resized_one_by_one(images, boxes, size) if images.device.type == "cpu" else _resized(images, boxes, size)


def _resized_one_by_one(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """torchvision's uint8 resize of each box, the faster way on a CPU."""
    crops = images.new_empty(len(images), images.shape[1], size, size)
    for crop, image, (top, left, height, width) in zip(crops, images, boxes.tolist(), strict=True):
        box = F.crop(image, top, left, height, width)
        crop.copy_(F.resize(box, [size, size], InterpolationMode.BILINEAR, antialias=True))
    return crops


def _resized(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """All boxes at once as two products of matrices, the faster way on a GPU; torchvision's within one grey level."""
    top, left, height, width = boxes.unbind(1)
    down = _filter(top, height, images.shape[2], size).to(images.device, non_blocking=True)[:, None]
    across = _filter(left, width, images.shape[3], size).to(images.device, non_blocking=True)[:, None]
    with torch.autocast(images.device.type, enabled=False):
        levels = down @ (images.float() @ across.mT)
    return levels.round_().clamp_(0, 255).to(torch.uint8)


def _filter(start_B: Tensor, length_B: Tensor, size_in: int, size_out: int) -> Tensor:
    """Weights float32 [B, size_out, size_in] of an antialiased bilinear resize of pixels start to start + length."""
    step = length_B.double() / size_out
    middle = start_B[:, None] + (torch.arange(size_out) + 0.5) * step[:, None]
    distance = (torch.arange(size_in) + 0.5 - middle[..., None]).abs() / step.clamp(min=1)[:, None, None]
    pixel = torch.arange(size_in)
    inside = (pixel >= start_B[:, None]) & (pixel < (start_B + length_B)[:, None])
    weights = (1 - distance).clamp_(min=0) * inside[:, None]
    return (weights / weights.sum(2, keepdim=True)).float()


def _shifted(seeds_B: Tensor, stream: int, padding: int, size: int) -> Tensor:
    """Coordinates [B, size] of one axis of the unpadded image, moved by a draw from -padding to padding."""
    offsets_B = integers(seeds_B, stream, 2 * padding + 1) - padding
    return offsets_B[:, None] + torch.arange(size, device=seeds_B.device)


def _reflect(coordinates: Tensor, size: int) -> Tensor:
    """Mirror coordinates outside [0, size) about the outermost pixels, which are not repeated."""
    inside = coordinates.abs()
    return torch.minimum(inside, 2 * (size - 1) - inside)


def _boxes(images: Tensor, seeds_B: Tensor, scale: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    """Top, left, height, width, int64 [B, 4]: the first of ten draws that fits, else the largest centred box."""
    height, width = images.shape[2:]
    seeds_B = seeds_B.cpu()
    boxes = _centred_box(height, width, ratio).expand(len(images), 4)
    for attempt in reversed(range(_BOX_ATTEMPTS)):
        stream = _BOX + 4 * attempt
        area = height * width * (scale[0] + (scale[1] - scale[0]) * uniform(seeds_B, stream))
        log_ratio = math.log(ratio[0]) + math.log(ratio[1] / ratio[0]) * uniform(seeds_B, stream + 1)
        box_height = (area / log_ratio.exp()).sqrt().round()
        box_width = (area * log_ratio.exp()).sqrt().round()
        fits = (box_height >= 1) & (box_height <= height) & (box_width >= 1) & (box_width <= width)
        top = (uniform(seeds_B, stream + 2) * (height - box_height + 1)).floor()
        left = (uniform(seeds_B, stream + 3) * (width - box_width + 1)).floor()
        drawn = torch.stack((top, left, box_height, box_width), dim=1).to(torch.int64)
        boxes = torch.where(fits[:, None], drawn, boxes)
    return boxes


def _centred_box(height: int, width: int, ratio: tuple[float, float]) -> Tensor:
    """The largest box in the middle whose aspect lies within `ratio`, int64 [4]."""
    box_height = min(height, max(1, round(width / ratio[0])))
    box_width = min(width, max(1, round(height * ratio[1])))
    return torch.tensor([(height - box_height) // 2, (width - box_width) // 2, box_height, box_width])
