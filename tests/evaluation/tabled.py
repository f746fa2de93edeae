"""A net whose answers are written down."""

import torch
from torch import Tensor, nn


class Table(nn.Module):
    """A net that knows its answers: an image's first pixel is the row of the logits."""

    def __init__(self, logits: list[list[float]] | Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.as_tensor(logits, dtype=torch.float32))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, C] of images [B, 3, S, S]."""
        return self.logits[images[:, 0, 0, 0].long()]


def batches(labels: Tensor, batch_size: int = 2) -> list[tuple[Tensor, Tensor]]:
    """Images 0, 1, 2, ... with these labels, for a `Table` of as many rows."""
    images = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1)
    return list(zip(images.split(batch_size), labels.split(batch_size), strict=True))
