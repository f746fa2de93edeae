"""The one shape of evaluators: `run(net, batches)` yields (metric, value), a value being a number or an `Array`."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from noisystudent_core.errors import DataError, LabelError

Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Array:
    """Numbers of one metric along named axes: int64 are counts; float64 are in percent, NaN where nothing counted."""

    values: NDArray[np.int64] | NDArray[np.float64]
    axes: tuple[str, ...]  # one for each dimension

    def rows(self, name: str) -> Iterator[tuple[str, float]]:
        """Its numbers under flat names, `name/i/j`; counts of 0 and what is NaN are left out."""
        holds = self.values != 0 if self.values.dtype.kind == "i" else ~np.isnan(self.values)
        for place in zip(*holds.nonzero(), strict=True):
            yield "/".join([name, *map(str, place)]), float(self.values[place])


Results = Iterator[tuple[str, float | Array]]


class Tally(Protocol):
    """A metric, or several, counted over batches."""

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: logits float32 [B, C], labels int64 [B] (or sets of them, bool [B, C]), on one device."""
        ...

    def results(self) -> Results:
        """What was counted."""
        ...


def measure(net: nn.Module, batches: Batches, *tallies: Tally) -> Results:
    """Yield all tallies' results after one pass over (uint8 [B, 3, S, S], labels int64 [B] or sets bool [B, C]).

    The net is a `Normalised` one in eval mode. Raises `LabelError` for labels that are no class of the net, `DataError`
    where there is no image.
    """
    device = next(net.parameters()).device
    num_images = 0
    for images, labels in batches:
        with torch.no_grad():
            logits = net(images.to(device))
        check_labels(labels, logits.shape[1])
        num_images += len(labels)
        labels = labels.to(device)
        for tally in tallies:
            tally.add(logits, labels)
    check_images(num_images)
    for tally in tallies:
        yield from tally.results()


def split(results: Iterable[tuple[str, float | Array]]) -> tuple[dict[str, float], dict[str, Array]]:
    """Numbers and arrays apart, each by name."""
    numbers: dict[str, float] = {}
    arrays: dict[str, Array] = {}
    for name, value in results:
        if isinstance(value, Array):
            arrays[name] = value
        else:
            numbers[name] = value
    return numbers, arrays


def ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """How many other classes do not score below the label, int64 [B]: a tie or NaN is a miss."""
    true = logits.gather(1, labels[:, None])
    return (~(logits < true)).sum(1) - 1


def check_images(num_images: int) -> None:
    """Raise `DataError` where there are none."""
    if num_images == 0:
        raise DataError("0 images: there is nothing to measure; at least 1 must be decodable and labelled")


def check_labels(labels: Tensor, num_classes: int) -> None:
    """Raise `LabelError` unless labels int64 [B], or sets of them bool [B, C], are of the net's classes."""
    if labels.dtype == torch.bool:
        if labels.shape[1] != num_classes:
            raise LabelError(f"sets of labels of {labels.shape[1]} classes: the net has {num_classes}; give another")
        return
    for label in (int(labels.min()), int(labels.max())) if len(labels) else ():
        if not 0 <= label < num_classes:
            raise LabelError(
                f"label {label}: must be 0 to {num_classes - 1}, the classes of the net; give a model fitted on these "
                "classes, or their names in its order"
            )
