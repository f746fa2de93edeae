"""Random numbers for whole images that are a pure function of an image's seed: no batch, split or device changes them.

SplitMix64 (Steele, Lea, Flood 2014): the n-th word of a stream is its finaliser on key + n x increment, where the key
is drawn from the image's seed and the stream's number. Each word gives two numbers of 32 bits, or four of 16.
"""

import functools

import torch
from torch import Tensor

from noisystudent_core.data.splitmix import INCREMENT, mix, wrapped

_HALF_TURN = 3.14159265358979


class Draws:
    """What is drawn for each image of a batch; `seeds_B` int64 [B]. Every call takes a `stream` of its own.

    Each `frame` of a sequence has draws of its own.
    """

    def __init__(self, seeds_B: Tensor, frame: int = 0) -> None:
        self._seeds_B = mix(mix(seeds_B.clone()) + frame)

    def bits(self, stream: int, count: int, dtype: torch.dtype = torch.int32) -> Tensor:
        """Independent integers over the whole range of `dtype`, int32 or int16: [B, count]."""
        per_word = 8 // dtype.itemsize
        keys_B = mix(self._seeds_B + wrapped(INCREMENT * (stream + 1)))
        words = mix(keys_B[:, None] + _counters(-(-count // per_word), self._seeds_B.device))
        return words.view(dtype)[:, :count]

    def uniform(self, stream: int, *shape: int) -> Tensor:
        """Numbers in [0, 1), multiples of 2^-24: float32 [B, *shape]."""
        bits = self.bits(stream, _product(shape))
        return (bits >> 8).bitwise_and_(2**24 - 1).float().mul_(2.0**-24).view(-1, *shape)

    def normal(self, stream: int, *shape: int) -> Tensor:
        """Standard normal numbers (Box and Muller 1958), none beyond 5.8: float32 [B, *shape]."""
        count = _product(shape)
        half = -(-count // 2)
        bits = self.bits(stream, 2 * half)
        radius = (bits[:, :half] >> 8).bitwise_and_(2**24 - 1).float().add_(1).mul_(2.0**-24).log_().mul_(-2).sqrt_()
        angle = bits[:, half:].float().mul_(_HALF_TURN * 2.0**-31)
        return torch.cat((angle.cos().mul_(radius), angle.sin_().mul_(radius)), 1)[:, :count].view(-1, *shape)


@functools.lru_cache(maxsize=16)
def _counters(count: int, device: torch.device) -> Tensor:
    """increment x 1 .. count, modulo 2^64."""
    return torch.arange(1, count + 1, device=device).mul_(wrapped(INCREMENT))


def _product(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()
