"""Which images a step sees: a function of seed and step alone."""

import hashlib

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor


class Order:
    """Endless passes over `num_items` items, each pass shuffled anew; `copies` [N] repeats items within a pass."""

    def __init__(self, num_items: int, batch_size: int, seed: int, copies: Tensor | None = None) -> None:
        items = torch.arange(num_items)
        self._items = items if copies is None else items.repeat_interleave(copies.cpu())
        self._batch_size = batch_size
        self._seed = seed
        self._shuffled: tuple[int, Tensor] | None = None  # the current pass, kept between steps

    def __len__(self) -> int:
        return len(self._items)

    def batch(self, step: int) -> Tensor:
        """Indices int64 [batch_size] of step `step`; passes follow one another without a gap."""
        start, picked = step * self._batch_size, []
        stop = start + self._batch_size
        while start < stop:
            number, offset = divmod(start, len(self))
            taken = self._pass(number)[offset : offset + stop - start]
            picked.append(taken)
            start += len(taken)
        return torch.cat(picked)

    def _pass(self, number: int) -> Tensor:
        if self._shuffled is None or self._shuffled[0] != number:
            generator = torch.Generator().manual_seed(derive(self._seed, "pass", number))
            self._shuffled = number, self._items[torch.randperm(len(self), generator=generator)]
        return self._shuffled[1]


def image_seeds(seed: int, step: int, num_images: int) -> Tensor:
    """A seed int64 [num_images] for each image of a step: run seed, step and position, whatever the device count."""
    return derive(seed, "images", step) + torch.arange(num_images)


def id_seeds(seed: int, image_ids: pa.ChunkedArray) -> Tensor:
    """A seed int64 [N] for each image, from a run's seed and the image's id [N] alone: ids are hashes already."""
    halves = np.frombuffer(b"".join(image_ids.to_pylist()), "<i8").reshape(-1, 2)
    return torch.from_numpy(halves[:, 0] ^ derive(seed, "ids", 0))


def derive(seed: int, purpose: str, number: int) -> int:
    """A seed of 62 bits for one purpose and number."""
    data = f"{seed} {purpose} {number}".encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest()) >> 2
