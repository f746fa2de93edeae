"""Affine warps of whole uint8 batches, nearest neighbour: grey values are only ever moved, never computed."""

import math
from typing import Literal

import torch
from torch import Tensor

from noisystudent_core.errors import ConfigurationError

Rounding = Literal["half_away", "grid_sample"]


def warp(images: Tensor, matrices: Tensor, fill: int = 0, *, rounding: Rounding = "half_away") -> Tensor:
    """Warp each image by its own affine matrix; pixels read from outside the image become `fill`.

    `images` uint8 [B, C, H, W]; `matrices` [B, 2, 3] maps an output pixel (x, y, 1) to the input pixel (x, y), both
    counted from the centre of the top left pixel. `rounding="half_away"` evaluates in float64 and rounds half away from
    zero (METHOD section 3); `"grid_sample"` evaluates and rounds as torchvision's affine does, in float32 and half to
    even, ties included. Raises ConfigurationError where the shapes do not match.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or matrices.shape != (len(images), 2, 3):
        raise ConfigurationError(
            f"images are {images.dtype} {list(images.shape)}, matrices {list(matrices.shape)}: "
            "must be torch.uint8 [B, C, H, W] and [B, 2, 3]; give one matrix per image"
        )
    height, width = images.shape[2:]
    matrices = matrices.to(device=images.device, dtype=torch.float64)
    coordinates = _exact_coordinates if rounding == "half_away" else _grid_sample_coordinates
    x, y = coordinates(matrices, height, width)
    return gather_pixels(images, y, x, fill)


def gather_pixels(images: Tensor, rows: Tensor, columns: Tensor, fill: int = 0) -> Tensor:
    """Read pixel (rows, columns) of each image for every output pixel; outside the image is `fill`.

    `images` uint8 [B, C, H, W]; `rows` and `columns` are whole numbers of any dtype, [B, h, w] after broadcasting.
    Returns uint8 [B, C, h, w].
    """
    num_images, num_channels, height, width = images.shape
    inside = ((rows >= 0) & (rows < height)) & ((columns >= 0) & (columns < width))
    index = (rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)).to(torch.int64)
    flat = index.flatten(1)[:, None].expand(-1, num_channels, -1)
    pixels = images.flatten(2).gather(2, flat).view(num_images, num_channels, *index.shape[1:])
    return pixels.masked_fill_(~inside[:, None], fill)


def translation(dx_B: Tensor, dy_B: Tensor) -> Tensor:
    """Matrices [B, 2, 3] by which output (x, y) reads input (x + dx, y + dy)."""
    one, zero = torch.ones_like(dx_B), torch.zeros_like(dx_B)
    return _matrices(one, zero, dx_B, zero, one, dy_B)


def shear_x(slope_B: Tensor, origin_y: float = 0.0) -> Tensor:
    """Matrices [B, 2, 3] by which output (x, y) reads input (x + slope (y - origin_y), y)."""
    one, zero = torch.ones_like(slope_B), torch.zeros_like(slope_B)
    return _matrices(one, slope_B, -origin_y * slope_B, zero, one, zero)


def shear_y(slope_B: Tensor, origin_x: float = 0.0) -> Tensor:
    """Matrices [B, 2, 3] by which output (x, y) reads input (x, y + slope (x - origin_x))."""
    one, zero = torch.ones_like(slope_B), torch.zeros_like(slope_B)
    return _matrices(one, zero, zero, slope_B, one, -origin_x * slope_B)


def rotation(degrees_B: Tensor, height: int, width: int) -> Tensor:
    """Matrices [B, 2, 3] by which output (x, y) reads input (c x - s y, s x + c y), about the image's centre."""
    radians = degrees_B * (math.pi / 180)
    c, s = radians.cos(), radians.sin()
    x0, y0 = (width - 1) / 2, (height - 1) / 2
    return _matrices(c, -s, x0 - c * x0 + s * y0, s, c, y0 - s * x0 - c * y0)


def _matrices(*entries: Tensor) -> Tensor:
    return torch.stack(entries, dim=-1).view(-1, 2, 3)


def _exact_coordinates(matrices: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Input x and y, float64 whole numbers [B, H, W], half away from zero."""
    columns = torch.arange(width, dtype=torch.float64, device=matrices.device)
    rows = torch.arange(height, dtype=torch.float64, device=matrices.device)
    read = (m[:, :1, None] * columns + m[:, 1:2, None] * rows[:, None] + m[:, 2:, None] for m in matrices.unbind(1))
    x, y = (torch.trunc(value + torch.copysign(torch.full_like(value, 0.5), value)) for value in read)
    return x, y


def _grid_sample_coordinates(matrices: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Input x and y, float32 whole numbers [B, H, W], in torchvision's order of float32 operations.

    torchvision multiplies a centred grid by the matrix, normalised to [-1, 1], without fused multiply-adds; separate
    operations on tensors reproduce it to the bit, on every device.
    """
    device = matrices.device
    columns = torch.linspace((1.0 - width) * 0.5, (width - 1.0) * 0.5, width, device=device)
    rows = torch.linspace((1.0 - height) * 0.5, (height - 1.0) * 0.5, height, device=device)
    x0, y0 = (width - 1) / 2, (height - 1) / 2
    read = []
    for m, size, centre in zip(matrices.unbind(1), (width, height), (x0, y0), strict=True):
        offset = m[:, 2] + m[:, 0] * x0 + m[:, 1] * y0 - centre
        centred = torch.stack((m[:, 0], m[:, 1], offset), dim=1).float() / (0.5 * size)
        normalised = centred[:, :1, None] * columns + centred[:, 1:2, None] * rows[:, None] + centred[:, 2:, None]
        read.append((((normalised + 1) * size - 1) / 2).round())
    return read[0], read[1]
