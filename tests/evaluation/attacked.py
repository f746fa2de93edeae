"""A small net with batch norm, fitted on digits by `make_attacks.py`, and the images it is attacked with."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from noisystudent_core.data.images import decode_batch
from noisystudent_core.models.architectures import Normalised

FIXTURE = Path(__file__).parent / "attacks.npz"
DIGITS = Path(__file__).parents[2] / "examples" / "digits"
NUM_IMAGES = 1000
SIZE = 32


class SmallNet(nn.Sequential):
    """Two convolutions for ten classes; 2,000 weights."""

    pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 5, stride=2, padding=2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(64, 10),
        )


def digits(split: str, num_images: int) -> tuple[Tensor, Tensor]:
    """The first images of a split of the example, uint8 [N, 3, 32, 32], and their labels int64 [N]."""
    table = pq.read_table(DIGITS / f"{split}.parquet").slice(0, num_images)
    data: list[Any] = table["image"].to_pylist()
    images, reasons = decode_batch([row["bytes"] if isinstance(row, dict) else row for row in data], SIZE)
    assert not any(reasons)
    return images, torch.tensor(table["label"].to_pylist())


def fitted() -> Normalised:
    """The net with its stored weights, in eval mode."""
    net = SmallNet()
    with np.load(FIXTURE) as stored:
        net.load_state_dict({name: torch.from_numpy(stored[f"weights/{name}"]) for name in net.state_dict()})
    return Normalised(net).eval()
