"""Affine warps of whole uint8 batches.

A matrix [2, 3] says where output pixel (x, y) is read: M (x, y, 1), both counted from the centre of the top left pixel.
Positions are evaluated in float64 by separate multiplications and additions, alike on every device.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from noisystudent_core.errors import ConfigurationError

Sampling = Literal["nearest", "grid_sample", "bilinear", "bicubic"]

_BELOW_HALF = math.nextafter(0.5, 0)  # added before rounding down, it rounds ties up and nothing else
_EPSILON = 1e-3  # grey levels: float32 sums of weights that add up to 1 stay on their side of a whole number


def warp(
    images: Tensor,
    matrices: Tensor,
    fill: int = 0,
    *,
    sampling: Sampling = "nearest",
    origins: Tensor | None = None,
) -> Tensor:
    """Warp each image by its own matrix; what is read from outside the image is `fill`.

    `images` uint8 [B, C, H, W]; `matrices` float64 [B, 2, 3] act about `origins` [B, 2], x and y, by default 0: on the
    CPU, unless waiting for the device is no matter.
    `sampling`: "nearest" rounds half away from zero (METHOD section 3); "grid_sample" takes the pixel torchvision's
    affine takes, ties included; "bilinear" and "bicubic" are Pillow's, without antialiasing, the fraction dropped.
    Raises ConfigurationError where the shapes do not match.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or matrices.shape != (len(images), 2, 3):
        raise ConfigurationError(
            f"images are {images.dtype} {list(images.shape)}, matrices {list(matrices.shape)}: "
            "must be torch.uint8 [B, C, H, W] and [B, 2, 3]; give one matrix per image"
        )
    matrices = matrices.double()
    origins = matrices.new_zeros(len(images), 2) if origins is None else origins.double()
    if sampling == "grid_sample":
        return gather_pixels(images, *_grid_sample_positions(images, matrices, origins), fill)
    rows, columns = _positions(images, matrices, origins)
    if sampling == "nearest":
        return gather_pixels(images, _nearest(rows, images.shape[2]), _nearest(columns, images.shape[3]), fill)
    return _interpolate(images, rows, columns, sampling, fill)


def gather_pixels(images: Tensor, rows: Tensor, columns: Tensor, fill: int = 0) -> Tensor:
    """Read pixel (rows, columns) of each image for every output pixel; outside the image is `fill`.

    `images` uint8 [B, C, H, W]; `rows` and `columns` are integers, [B, h, w] after broadcasting. Returns uint8
    [B, C, h, w].
    """
    height, width = images.shape[2:]
    framed = F.pad(images, (1, 1, 1, 1), value=fill)  # what is outside is read from the frame: no mask is needed
    return _take(framed, rows.clamp(-1, height) + 1, columns.clamp(-1, width) + 1)


def _take(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixels (rows, columns) [B, h, w], all inside."""
    num_images, num_channels, _, width = images.shape
    index = (rows * width + columns).to(torch.int64)
    flat = index.expand(num_images, -1, -1).flatten(1)[:, None].expand(-1, num_channels, -1)
    return images.flatten(2).gather(2, flat).view(num_images, num_channels, *index.shape[1:])


def translation(dx_B: Tensor, dy_B: Tensor) -> Tensor:
    """Matrices [B, 2, 3] by which output (x, y) reads input (x + dx, y + dy)."""
    one, zero = torch.ones_like(dx_B), torch.zeros_like(dx_B)
    return _matrices(one, zero, dx_B, zero, one, dy_B)


def shear_x(slope_B: Tensor) -> Tensor:
    """Matrices [B, 2, 3] by which output (x, y) reads input (x + slope y, y)."""
    one, zero = torch.ones_like(slope_B), torch.zeros_like(slope_B)
    return _matrices(one, slope_B, zero, zero, one, zero)


def shear_y(slope_B: Tensor) -> Tensor:
    """Matrices [B, 2, 3] by which output (x, y) reads input (x, y + slope x)."""
    one, zero = torch.ones_like(slope_B), torch.zeros_like(slope_B)
    return _matrices(one, zero, zero, slope_B, one, zero)


def rotation(degrees_B: Tensor) -> Tensor:
    """Matrices [B, 2, 3] by which output (x, y) reads input (c x - s y, s x + c y), turned by `degrees_B`."""
    radians = degrees_B * (math.pi / 180)
    c, s, zero = radians.cos(), radians.sin(), torch.zeros_like(degrees_B)
    return _matrices(c, -s, zero, s, c, zero)


def centre(height: int, width: int) -> tuple[float, float]:
    """The middle of an image, x and y: ((W - 1) / 2, (H - 1) / 2)."""
    return (width - 1) / 2, (height - 1) / 2


def _matrices(*entries: Tensor) -> Tensor:
    return torch.stack(entries, dim=-1).view(-1, 2, 3)


def _positions(images: Tensor, matrices: Tensor, origins: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns that output pixels read: float64 [B, H, W]; int64 [1, H, 1] and [1, 1, W] where none moves."""
    height, width = images.shape[2:]
    columns = torch.arange(width, device=images.device).view(1, 1, -1)
    rows = torch.arange(height, device=images.device).view(1, -1, 1)
    x0, y0 = origins.to(images.device, non_blocking=True)[:, :, None, None].unbind(1)
    on_device = matrices.to(images.device, non_blocking=True)[..., None, None]
    found = []
    for axis, (output, start) in enumerate(((columns, x0), (rows, y0))):
        if bool((matrices[:, axis] == matrices.new_tensor([axis == 0, axis == 1, 0])).all()):
            found.append(output)
        else:
            a, b, c = on_device[:, axis].unbind(1)
            found.append((a * (columns - x0) + b * (rows - y0)).add_(c).add_(start))
    return found[1], found[0]


def _nearest(positions: Tensor, size: int) -> Tensor:
    """Half away from zero wherever that is inside an image; -1 and `size` stand for all that is outside. int32."""
    if not positions.is_floating_point():
        return positions.to(torch.int32)
    return positions.add_(_BELOW_HALF).floor_().clamp_(-1, size).to(torch.int32)


def _interpolate(
    images: Tensor, rows: Tensor, columns: Tensor, sampling: Literal["bilinear", "bicubic"], fill: int
) -> Tensor:
    """Pillow's filters: neighbours outside repeat the outermost pixels; a pixel read beyond half a pixel is `fill`."""
    num_images, num_channels, height, width = images.shape
    framed = F.pad(images.float(), (2, 2, 2, 2), mode="replicate")
    row, row_weights, row_inside = _taps(rows, height, sampling)
    column, column_weights, column_inside = _taps(columns, width, sampling)
    stride, flat = framed.shape[3], framed.flatten(2)
    corner = ((row + 1) * stride + (column + 1)).expand(num_images, -1, -1)  # of the tap furthest up and left
    corner = corner.flatten(1)[:, None].expand(-1, num_channels, -1)
    blended = torch.zeros(images.shape, device=images.device)
    for dy, row_weight in row_weights.items():
        for dx, column_weight in column_weights.items():
            pixels = flat[..., (dy + 1) * stride + (dx + 1) :].gather(2, corner)
            blended += pixels.view_as(blended).mul_((row_weight * column_weight)[:, None])
    inside = (row_inside * column_inside)[:, None]
    blended.mul_(inside).add_((1 - inside) * fill + _EPSILON)
    return blended.clamp_(0, 255).to(torch.int16).to(torch.uint8)


def _taps(
    positions: Tensor, size: int, sampling: Literal["bilinear", "bicubic"]
) -> tuple[Tensor, dict[int, Tensor], Tensor]:
    """By one axis: the pixel at or before each position, int64; weights float32 by offset from it; 1 inside, else 0."""
    if not positions.is_floating_point():  # nothing moves along this axis
        one = torch.ones(1, 1, 1, device=positions.device)
        return positions, {0: one}, one
    first = positions.floor()
    d = (positions - first).float()
    inside = ((positions >= -0.5) & (positions < size - 0.5)).float()
    weights = {0: 1 - d, 1: d} if sampling == "bilinear" else _cubic(d)
    return first.clamp_(-1, size - 1).to(torch.int64), weights, inside


def _cubic(d: Tensor) -> dict[int, Tensor]:
    """Weights by offset: Keys' cubic convolution with a = -1, as Pillow's transforms use it (Keys 1981, equation 4)."""
    square, cube = d * d, d * d * d
    return {-1: 2 * square - d - cube, 0: cube - 2 * square + 1, 1: d + square - cube, 2: cube - square}


def _grid_sample_positions(images: Tensor, matrices: Tensor, origins: Tensor) -> tuple[Tensor, Tensor]:
    """Input rows and columns, int32 [B, H, W], in torchvision's order of float32 operations.

    torchvision multiplies a centred grid by the matrix, normalised to [-1, 1], without fused multiply-adds; separate
    operations on tensors reproduce it to the bit, on every device.
    """
    height, width = images.shape[2:]
    x, y = (torch.linspace((1.0 - n) * 0.5, (n - 1.0) * 0.5, n, device=images.device) for n in (width, height))
    shift = origins.new_tensor(centre(height, width)) - origins
    offsets = (matrices[..., :2] * shift[:, None]).sum(2) + matrices[..., 2] - shift
    centred = torch.cat((matrices[..., :2], offsets[..., None]), dim=2).float()
    found = []
    for axis, size in enumerate((width, height)):
        scaled = (centred[:, axis] / (0.5 * size)).to(images.device, non_blocking=True)
        a, b, c = scaled[:, :, None, None].unbind(1)
        normalised = a * x + b * y[:, None] + c
        found.append(normalised.add_(1).mul_(size).sub_(1).div_(2).round_().clamp_(-1, size).to(torch.int32))
    return found[1], found[0]
