"""Accuracy on labelled images."""

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def run(net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[str, float]]:
    """Yield (metric, value) over batches of (uint8 [B, 3, S, S], labels int64 [B]): top1 and top5 in percent, loss.

    The net is a `Normalised` one in eval mode; top5 is left out where there are not more than five classes.
    """
    device = next(net.parameters()).device
    ranks, losses = [], []
    num_classes = 0
    for images, labels in batches:
        with torch.no_grad():
            logits, labels = net(images.to(device)), labels.to(device)
        true = logits.gather(1, labels[:, None])
        num_classes = logits.shape[1]
        ranks.append((~(logits < true)).sum(1) - 1)  # how many others do not score below it: a tie or NaN is a miss
        losses.append(F.cross_entropy(logits, labels, reduction="none"))
    if not ranks:
        return
    rank = torch.cat(ranks)
    yield "top1", 100 * int((rank == 0).sum()) / len(rank)
    if num_classes > 5:
        yield "top5", 100 * int((rank < 5).sum()) / len(rank)
    yield "loss", torch.cat(losses).double().mean().item()
