"""What corruptions share: pixels as numbers and back, and windows of images."""

import torch
from torch import Tensor

_EPSILON = 1e-3  # grey levels: what float32 sums lose of a whole number


def truncated(levels: Tensor) -> Tensor:
    """Grey levels as uint8, clipped, the fraction dropped as the published generators drop it; uint8 as it is."""
    if levels.dtype == torch.uint8:
        return levels
    return (levels + _EPSILON).clamp_(0, 255).to(torch.uint8)


def luma(images: Tensor) -> Tensor:
    """Grey of float32 [B, 3, S, S]: [B, 1, S, S] (ITU-R 601, as OpenCV)."""
    red, green, blue = images.split(1, dim=1)
    return red * 0.299 + green * 0.587 + blue * 0.114


def windows(images: Tensor, height: int, width: int) -> Tensor:
    """All windows of contiguous images [B, H, W, C] as a view: [B, first row, first column, height, width x C].

    Channels come last so that a row of a window is one piece of memory.
    """
    num_images, num_rows, num_columns, channels = images.shape
    image, row, column, _ = images.stride()
    shape = (num_images, num_rows - height + 1, num_columns - width + 1, height, width * channels)
    return images.as_strided(shape, (image, row, column, row, 1))
