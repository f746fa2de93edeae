"""Accuracy on labelled images."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from noisystudent_core.evaluation.metrics import Batches, measure, ranks, split


class Hits:
    """top1 and top5 in percent, of ranks; top5 is left out where there are not more than five classes."""

    def __init__(self) -> None:
        self._ranks: list[Tensor] = []
        self._num_classes = 0

    def add(self, ranks_B: Tensor, num_classes: int) -> None:
        """Count a batch: for each image, how many of `num_classes` classes score at least as high as the true one."""
        self._ranks.append(ranks_B)
        self._num_classes = num_classes

    def results(self) -> Iterator[tuple[str, float]]:
        """See `Tally`."""
        rank = torch.cat(self._ranks)
        yield "top1", 100 * int((rank == 0).sum()) / len(rank)
        if self._num_classes > 5:
            yield "top5", 100 * int((rank < 5).sum()) / len(rank)


class Accuracy:
    """top1 and top5 in percent, and loss: the mean cross-entropy."""

    def __init__(self) -> None:
        self._hits = Hits()
        self._losses: list[Tensor] = []

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """See `Tally`."""
        self._hits.add(ranks(logits, labels), logits.shape[1])
        self._losses.append(F.cross_entropy(logits, labels, reduction="none"))

    def results(self) -> Iterator[tuple[str, float]]:
        """See `Tally`."""
        yield from self._hits.results()
        yield "loss", torch.cat(self._losses).double().mean().item()


def run(net: nn.Module, batches: Batches) -> Iterator[tuple[str, float]]:
    """Yield top1 and top5 in percent, and loss; arguments and errors are those of `metrics.measure`."""
    yield from split(measure(net, batches, Accuracy()))[0].items()
