"""Seeds of what is drawn in a run: functions of its seed, and of a step and position or of an image, alone."""

import hashlib

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor


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
