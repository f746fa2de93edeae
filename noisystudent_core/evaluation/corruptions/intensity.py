"""Noise of single values, brightness and contrast.

Images are uint8 [B, 3, S, S]; results are uint8, or float32 in grey levels 0 to 255.
"""

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from noisystudent_core.evaluation.corruptions.constants import Generator
from noisystudent_core.evaluation.draws import Draws

_THRESHOLD = 16  # bits of a probability in the tables of `shot_noise`


def gaussian_noise(images: Tensor, scale: float, draws: Draws, generator: Generator) -> Tensor:
    """Add normal noise of `scale` x 255."""
    return images + draws.normal(0, *images.shape[1:]).mul_(255 * scale)


def impulse_noise(images: Tensor, share: float, draws: Draws, generator: Generator) -> Tensor:
    """Make a share of the values 0 or 255, as many each."""
    bits = draws.bits(0, images[0].numel(), torch.int16).view(images.shape)  # -2^15 to 2^15 - 1
    half = round(share / 2 * 2**16)
    return images.masked_fill(bits < half - 2**15, 0).masked_fill_(bits >= 2**15 - half, 255)


def shot_noise(images: Tensor, photons: float, draws: Draws, generator: Generator) -> Tensor:
    """Count Poisson photons, `photons` on average where a pixel is white."""
    table, index_bits = _shot_table(photons, images.device)
    bits = draws.bits(0, images[0].numel()).view(images.shape)
    columns = (bits >> _THRESHOLD).bitwise_and_((1 << index_bits) - 1).add_(images.int() << index_bits)
    entries = table.index_select(0, columns.flatten()).view(images.shape)
    stays = (bits & 0xFFFF) < (entries >> _THRESHOLD).bitwise_and_(0xFFFF)
    return torch.where(stays, entries >> 8, entries).to(torch.uint8)  # the lowest byte


@functools.lru_cache(maxsize=16)
def _shot_table(photons: float, device: torch.device) -> tuple[Tensor, int]:
    """Alias tables (Walker 1977) of the counts of each grey level: int32 [256 x 2^bits] and `bits`.

    An entry is the probability x 2^16 to stay, 16 bits, the grey level of its column, 8 bits, and the other one, 8
    bits.
    """
    index_bits = int(photons).bit_length()  # counts from `photons` on are white
    counts = np.arange(2**index_bits)
    levels = np.trunc((counts / photons).clip(0, 1) * 255).astype(np.int64)
    columns = [_alias(_poisson(level / 255 * photons, int(photons), len(counts))) for level in range(256)]
    stay = np.stack([np.round(accept * 2**_THRESHOLD).astype(np.int64) for accept, _ in columns])
    alias = np.stack([alias for _, alias in columns])
    full = stay == 2**_THRESHOLD  # one more than 16 bits: the column is its own other one
    stay[full], alias[full] = 0, np.nonzero(full)[1]
    packed = (stay << _THRESHOLD) + (levels << 8) + levels[alias]
    return torch.from_numpy(packed.ravel().astype(np.uint32).view(np.int32)).to(device), index_bits


def _poisson(mean: float, most: int, size: int) -> NDArray[np.float64]:
    """Probabilities of the counts 0 to `most`, the last one's with all above; zeros up to `size`."""
    logs = np.arange(1, most) if most > 1 else np.empty(0)
    below = np.exp(np.concatenate(([0.0], np.log(mean / logs).cumsum())) - mean) if mean > 0 else np.eye(1, most)[0]
    found = np.zeros(size)
    found[:most] = below
    found[most] = max(0.0, 1 - below.sum())
    return found


def _alias(probabilities: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """For N equally likely columns: the probability to stay in one, and where to go else."""
    accept = probabilities * (len(probabilities) / probabilities.sum())
    alias = np.arange(len(accept))
    small = [column for column in alias if accept[column] < 1]
    large = [column for column in alias if accept[column] >= 1]
    while small and large:
        column, giver = small.pop(), large[-1]
        alias[column] = giver
        accept[giver] -= 1 - accept[column]
        if accept[giver] < 1:
            small.append(large.pop())
    return accept.clip(0, 1), alias


def brightness(images: Tensor, added: float, draws: Draws, generator: Generator) -> Tensor:
    """Add to the value of HSV, keeping hue and saturation: all channels grow by the factor of the largest one."""
    return brightened(images.float(), added)


def brightened(images: Tensor, added: float) -> Tensor:
    """`brightness` by `added` x 255, which may be below 0; black has no hue and becomes grey."""
    value = images.amax(1, keepdim=True)
    target = (value + 255 * added).clamp_(0, 255)
    return torch.where(value == 0, target, images * (target / value.clamp(min=1)))


def contrast(images: Tensor, factor: float, draws: Draws, generator: Generator) -> Tensor:
    """Move every value towards its channel's mean."""
    images = images.float()
    return torch.lerp(images.mean((2, 3), keepdim=True), images, factor)
