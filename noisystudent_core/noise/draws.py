"""Random draws that are a pure function of an image's seed: no batch, split, device or thread count changes them."""

import torch
from torch import Tensor

from noisystudent_core.data.splitmix import INCREMENT, mix, shift_right, wrapped
from noisystudent_core.errors import ConfigurationError


def uniform(seeds_B: Tensor, stream: int) -> Tensor:
    """Draw one number in [0, 1) per seed; different streams of one seed are independent.

    `seeds_B` is int64 [B]; returns float64 [B] on the same device, a multiple of 2^-53.
    """
    return uniforms(seeds_B, range(stream, stream + 1))[:, 0]


def uniforms(seeds_B: Tensor, streams: range) -> Tensor:
    """Draw `uniform` of several streams S at once; returns float64 [B, S]."""
    increments_S = torch.tensor([wrapped(INCREMENT * (stream + 1)) for stream in streams], device=seeds_B.device)
    bits_BS = mix(mix(seeds_B.clone())[:, None] + increments_S)
    return shift_right(bits_BS, 11).to(torch.float64) * 2.0**-53


def integers(seeds_B: Tensor, stream: int, high: int) -> Tensor:
    """Draw one integer in [0, high) per seed; `high` must be at least 1 and below 2^31. Returns int64 [B]."""
    if not 1 <= high < 2**31:
        raise ConfigurationError(f"high={high}: must be in [1, 2^31); give the number of outcomes to draw from")
    return (uniform(seeds_B, stream) * high).to(torch.int64)


def check_seeds(images: Tensor, seeds_B: Tensor) -> None:
    """Raise ConfigurationError unless `images` is uint8 [B, C, H, W] and `seeds_B` int64 [B] of the same B."""
    check_images(images)
    if seeds_B.dtype != torch.int64 or seeds_B.shape != images.shape[:1]:
        raise ConfigurationError(
            f"seeds are {seeds_B.dtype} {list(seeds_B.shape)}: must be torch.int64 [{len(images)}]; "
            "give one seed per image of the batch"
        )


def check_images(images: Tensor) -> None:
    """Raise ConfigurationError unless `images` is uint8 [B, C, H, W] with C of 1 or 3 and H, W of at least 1."""
    if images.dtype != torch.uint8:
        raise ConfigurationError(f"images are {images.dtype}: must be torch.uint8; noise comes before normalisation")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
        raise ConfigurationError(
            f"images have shape {list(images.shape)}: must be [B, C, H, W] with 1 or 3 channels; "
            "add the batch dimension with images[None], move channels first with images.permute(0, 3, 1, 2)"
        )
