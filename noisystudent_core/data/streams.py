"""Where a fit's images come from, step by step: the same ones whatever the mode, the devices and the workers."""

from typing import NamedTuple, Protocol

from torch import Tensor

from noisystudent_core.data.order import Order


class Share(NamedTuple):
    """The part of every batch that one process of a fit takes: an equal, contiguous one."""

    rank: int = 0
    world: int = 1

    def of(self, rows: Tensor) -> Tensor:
        """This process's share of `rows` [N], N a multiple of `world`."""
        return rows[slice(*self.span(len(rows)))]

    def span(self, num_rows: int) -> tuple[int, int]:
        """Where this process's share of so many rows begins and ends."""
        size = num_rows // self.world
        return self.rank * size, (self.rank + 1) * size


class Stream(Protocol):
    """Images of one kind, and what is known of each: a label int64, or a distribution float32 [C]."""

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """This process's share of step `step`, from 0: uint8 [N, 3, R, R] and [N] or [N, C], on its device.

        Steps are asked for one after another; another step than the next one is found as well, at more work.
        """
        ...


class ResidentStream:
    """Images that lie decoded in the device's memory."""

    def __init__(self, images: Tensor, known: Tensor, order: Order, share: Share) -> None:
        self._images, self._known = images, known
        self._order, self._share = order, share

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """See `Stream`."""
        rows = self._share.of(self._order.batch(step)).to(self._images.device, non_blocking=True)
        return self._images[rows], self._known[rows]
