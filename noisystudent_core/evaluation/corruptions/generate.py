"""Corrupting batches: one function for all corruptions, seeded per image."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from noisystudent_core.errors import ConfigurationError
from noisystudent_core.evaluation.corruptions import blur, intensity, shape, weather
from noisystudent_core.evaluation.corruptions.constants import (
    NAMES,
    PROCEDURAL_FROST,
    Generator,
    constants_of,
    generator_of,
)
from noisystudent_core.evaluation.corruptions.frost import Textures, drawn_textures, frost
from noisystudent_core.evaluation.corruptions.pixels import truncated
from noisystudent_core.evaluation.draws import Draws

Corruption = Callable[[Tensor, Any, Draws, Generator], Tensor]

_CORRUPTIONS: Mapping[str, Corruption] = {
    "gaussian_noise": intensity.gaussian_noise,
    "shot_noise": intensity.shot_noise,
    "impulse_noise": intensity.impulse_noise,
    "defocus_blur": blur.defocus,
    "glass_blur": blur.glass,
    "motion_blur": blur.motion,
    "zoom_blur": blur.zoom,
    "snow": weather.snow,
    "fog": weather.fog,
    "brightness": intensity.brightness,
    "contrast": intensity.contrast,
    "elastic_transform": shape.elastic,
    "pixelate": shape.pixelate,
    "jpeg_compression": shape.jpeg,
}
_LEAST_PX = 8
_PIECE = {"cpu": 2**18}  # grey levels worked on at once: what fits into a cache; elsewhere what fits into memory
_LARGE_PIECE = 2**24


def names(frost_textures: Textures | None) -> tuple[str, ...]:
    """The 15 corruptions; without textures the frost is a procedural one and is called so."""
    return tuple(PROCEDURAL_FROST if name == "frost" and frost_textures is None else name for name in NAMES)


def corrupt(
    images: Tensor,
    name: str,
    severity: int,
    seeds_B: Tensor,
    *,
    frost_textures: Textures | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Corrupt each image of a batch, with draws that are a function of its own seed alone.

    `images` uint8 [B, 3, S, S] of at least 8 px; `seeds_B` int64 [B]; returns uint8 [B, 3, S, S] on the same device.
    The constants are CIFAR-10-C's up to 84 px, ImageNet-C's above, unless `generator` says otherwise. Raises
    `ConfigurationError` for other shapes, names and severities, and for "frost" without textures: that one is called
    "frost (procedural)".
    """
    check_batch(images, seeds_B)
    size = images.shape[-1]
    generator = generator or generator_of(size)
    constants = constants_of(generator, name, severity)
    corruption = _frosted(name, frost_textures) if name in ("frost", PROCEDURAL_FROST) else _CORRUPTIONS[name]
    corrupted = torch.empty_like(images, memory_format=torch.contiguous_format)
    length = max(1, _PIECE.get(images.device.type, _LARGE_PIECE) // (3 * size * size))
    seeds_B = seeds_B.to(images.device)
    for start in range(0, len(images), length):
        piece = slice(start, start + length)
        corrupted[piece] = truncated(corruption(images[piece], constants, Draws(seeds_B[piece]), generator))
    return corrupted


def check_batch(images: Tensor, seeds_B: Tensor) -> None:
    """Raise `ConfigurationError` unless images are uint8 [B, 3, S, S] of at least 8 px, and seeds int64 [B]."""
    square = images.ndim == 4 and images.shape[1] == 3 and images.shape[2] == images.shape[3] >= _LEAST_PX
    if images.dtype != torch.uint8 or not square:
        raise ConfigurationError(
            f"images are {images.dtype} {list(images.shape)}: must be torch.uint8 [B, 3, S, S], S >= {_LEAST_PX}; "
            "give decoded square images before normalisation"
        )
    if seeds_B.dtype != torch.int64 or seeds_B.shape != images.shape[:1]:
        raise ConfigurationError(
            f"seeds are {seeds_B.dtype} {list(seeds_B.shape)}: must be torch.int64 [{len(images)}], one per image"
        )


def _frosted(name: str, textures: Textures | None) -> Corruption:
    if name == PROCEDURAL_FROST:
        return partial(frost, textures=drawn_textures())
    if textures is None:
        raise ConfigurationError(
            'corruption "frost" with 0 textures: give frost_textures=read_textures(FOLDER), or take '
            f"{PROCEDURAL_FROST!r}, whose means are no published mCE"
        )
    return partial(frost, textures=textures)
