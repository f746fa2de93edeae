"""Small images that operations behave differently on."""

import torch
from torch import Tensor


def images_of(channels: int, height: int, width: int) -> Tensor:
    """Two random images, the same in two grey levels, a smooth one and a flat one: uint8 [6, C, H, W]."""
    generator = torch.Generator().manual_seed(height * width + channels)
    shape = (2, channels, height, width)
    random = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    ramp = torch.linspace(20, 230, height * width).view(1, 1, height, width).expand(1, channels, -1, -1)
    smooth = (ramp * torch.linspace(0.5, 1, channels).view(1, -1, 1, 1)).to(torch.uint8)
    flat = torch.full((1, channels, height, width), 77, dtype=torch.uint8)
    return torch.cat((random, random // 128 * 200, smooth, flat))
