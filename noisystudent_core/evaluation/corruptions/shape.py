"""Elastic transform, pixelation and JPEG.

Images are uint8 [B, 3, S, S]; results are uint8, or float32 in grey levels 0 to 255.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.io import decode_jpeg, encode_jpeg

from noisystudent_core.evaluation.corruptions import separable
from noisystudent_core.evaluation.corruptions.constants import Generator
from noisystudent_core.evaluation.draws import Draws


def elastic(images: Tensor, constants: tuple[float, float, float], draws: Draws, generator: Generator) -> Tensor:
    """Move three corners (CIFAR-10-C), then every pixel by a smoothed random field; borders are reflected."""
    size = images.shape[-1]
    amplitude, sigma, reach = (size * constant for constant in constants)
    y, x = torch.meshgrid(*[torch.arange(size, device=images.device, dtype=torch.float32)] * 2, indexing="ij")
    images = images.float()
    if reach > 0:
        affine = _affine(size, (draws.uniform(0, 3, 2) * 2 - 1) * reach)[..., None, None]
        places = affine[:, 0] * x + affine[:, 1] * y + affine[:, 2]  # [B, 2, S, S]: x and y
        images = sampled(images, places, mirrored=True)
    if amplitude > 0:
        field = (draws.uniform(1, 2, size, size) * 2 - 1) * amplitude
        field = separable.gaussian(size, sigma, "reflect", 3.0, images.device)(field)
        images = sampled(images, torch.stack((x, y)) + field, mirrored=False)
    return images


def sampled(images: Tensor, places: Tensor, *, mirrored: bool) -> Tensor:
    """Read images [B, C, S, S] linearly at `places` [B, 2, S, S], x and y in pixels.

    Outside the border pixels are repeated once (scipy's "reflect") or, `mirrored`, not (OpenCV's 101).
    """
    size = images.shape[-1]
    scaled = places * (2 / (size - 1)) - 1 if mirrored else (places + 0.5) * (2 / size) - 1
    grid = scaled.permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=mirrored)


def _affine(size: int, moves: Tensor) -> Tensor:
    """Where output pixels are read if three corners of a square move by `moves` [B, 3, 2]: [B, 3 of (x, y, 1), 2]."""
    low, high = size // 2 - size // 3, size // 2 + size // 3
    corners = moves.new_tensor([[high, high], [high, low], [low, low]]).double()
    moved = F.pad(corners + moves, (0, 1), value=1.0)
    found, _ = torch.linalg.solve_ex(moved, corners.expand(len(moves), -1, -1))
    return found.float()


def pixelate(images: Tensor, factor: float, draws: Draws, generator: Generator) -> Tensor:
    """Shrink by averaging and enlarge again by repeating."""
    size = images.shape[-1]
    small = max(1, int(size * factor))
    shrunk = _box_resized(images, small)
    nearest = ((torch.arange(size, device=images.device) + 0.5) * (small / size)).long()
    return shrunk.index_select(2, nearest).index_select(3, nearest)


def _box_resized(images: Tensor, size: int) -> Tensor:
    """Pillow's box filter: columns first, both times rounded; a pixel counts where its centre is in the box."""
    weights = _boxes(images.shape[-1], size, images.device)
    flat = images.flatten(0, 1).float()
    columns = torch.bmm(flat, weights.T.contiguous().expand(len(flat), -1, -1)).add_(0.5).floor_()
    both = torch.bmm(weights.expand(len(flat), -1, -1), columns).add_(0.5)
    return both.to(torch.uint8).view(*images.shape[:2], size, size)


@functools.lru_cache(maxsize=64)
def _boxes(before: int, after: int, device: torch.device) -> Tensor:
    """Weights float32 [after, before]; rows add up to 1."""
    scale = before / after
    centres = (torch.arange(after, dtype=torch.float64)[:, None] + 0.5) * scale
    distances = (torch.arange(before) + 0.5 - centres) / scale
    weights = ((distances > -0.5) & (distances <= 0.5)).double()
    return (weights / weights.sum(1, keepdim=True)).float().to(device)


def jpeg(images: Tensor, quality: int, draws: Draws, generator: Generator) -> Tensor:
    """Compress by libjpeg and read again, on the CPU."""
    coded = encode_jpeg(list(images.cpu()), quality=quality)
    assert isinstance(coded, list)
    decoded = decode_jpeg(coded)
    assert isinstance(decoded, list)
    return torch.stack(decoded).to(images.device)
