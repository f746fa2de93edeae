"""The order in which a fit sees its images: a function of data set, seed, step and `shuffle_window` alone.

An item is one copy of an image. Passes over all items follow one another without a gap. Where a pass has no more items
than the window, it is shuffled whole. Else a pass is a sequence of windows, each shuffled whole:

- It goes over the parts R times, in R rounds, each with the parts in an order of its own. R is the mean number of
  copies, rounded up: without copies every part is needed once a pass, with them no more images are read than shown
  and kept once.
- Round r of 0 .. R - 1 has floor((c + (i + r) mod R) / R) copies of image number i, which has c. Over all rounds these
  sum up to c (Hermite's identity): every pass is exact, and shares differ by at most one from round to round.
- Consecutive parts are put together until they have a window's items; what is left at the end joins the last window.
- In a window, the copies of an image lie about evenly spaced, from a random start.
"""

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from noisystudent_core.data.mixing import derive
from noisystudent_core.errors import DataError


class Window(NamedTuple):
    """A stretch of the endless sequence of items whose images are shuffled together."""

    start: int  # the place of its first item, counted from the first pass on
    stop: int
    round: int
    parts: tuple[int, ...]  # those with an item in it, ascending


class Order:
    """Endless passes over the images of parts with `part_sizes` images each; `copies` [N] repeats them within a pass.

    Images are counted through, part by part. `window` is the least number of items that are shuffled together; None:
    all. Raises `DataError` where there is no item.
    """

    def __init__(
        self,
        part_sizes: Sequence[int],
        batch_size: int,
        seed: int,
        copies: Tensor | None = None,
        window: int | None = None,
    ) -> None:
        self.batch_size = batch_size
        self._starts = torch.tensor([0, *part_sizes]).cumsum(0)  # of each part's images, and the end of the last
        self._copies = None if copies is None else copies.cpu()
        self._seed, num_images = seed, int(self._starts[-1])
        self._length = num_images if copies is None else int(copies.sum())
        if not self._length:
            raise DataError("0 images to fit on: there must be one at least; add images or lower the threshold")
        self._window = self._length if window is None else window
        self._is_whole = self._length <= self._window
        self._num_rounds = max(1, min(-(-self._length // num_images), self._length // self._window))
        self._counts = [self._count(round) for round in range(self._num_rounds)]
        self._windows_of_pass = lru_cache(2)(self._lay_out)  # the current pass and the next one, between steps
        self._items_of_window = lru_cache(4)(self._shuffle)  # those of a step, and the next

    def __len__(self) -> int:
        return self._length

    def batch(self, step: int) -> Tensor:
        """Numbers int64 [batch_size] of the images of step `step`, over all processes."""
        start = step * self.batch_size
        stop = start + self.batch_size
        return torch.cat([self.items(w)[max(start - w.start, 0) : stop - w.start] for w in self.windows(start, stop)])

    def items(self, window: Window) -> Tensor:
        """Numbers int64 [stop - start] of a window's images, in the order they are seen."""
        return self._items_of_window(window)

    def windows(self, start: int, stop: int) -> list[Window]:
        """The windows that the items from `start` on, before `stop`, lie in."""
        found: list[Window] = []
        while start < stop:
            windows = self._windows_of_pass(start // self._length)
            found.append(windows[bisect_right(windows, start, key=lambda window: window.start) - 1])
            start = found[-1].stop
        return found

    def parts_of(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The part of each image [N], and its place among the part's images, from the images' numbers [N]."""
        parts = torch.bucketize(images, self._starts, right=True) - 1
        return parts, images - self._starts[parts]

    def _lay_out(self, number: int) -> list[Window]:
        """The windows of a pass, in order."""
        windows, start = [], number * self._length
        for round, counts in enumerate(self._counts):
            for parts in self._groups(counts, number * self._num_rounds + round):
                stop = start + sum(counts[part] for part in parts)
                windows.append(Window(start, stop, round, tuple(sorted(parts))))
                start = stop
        return windows

    def _groups(self, counts: list[int], number: int) -> list[list[int]]:
        """Parts with an item in the round of this number, shuffled and put together up to a window each."""
        groups: list[list[int]] = [[]]
        left = sum(counts)
        waiting = 0
        for part in torch.randperm(len(counts), generator=self._generator("parts", number)).tolist():
            if waiting >= self._window and left >= self._window:
                groups.append([])
                waiting = 0
            if counts[part]:
                groups[-1].append(part)
                waiting, left = waiting + counts[part], left - counts[part]
        return groups

    def _shuffle(self, window: Window) -> Tensor:
        images = torch.cat([self._images(part) for part in window.parts])
        shares = torch.cat([self._shares(part, window.round) for part in window.parts])
        items = images.repeat_interleave(shares)
        if self._is_whole:
            number = window.start // self._length
            return items[torch.randperm(len(items), generator=self._generator("pass", number))]
        generator = self._generator("window", window.start)
        phases = torch.rand(len(images), generator=generator, dtype=torch.float64).repeat_interleave(shares)
        firsts = (shares.cumsum(0) - shares).repeat_interleave(shares)
        nth = torch.arange(len(items)) - firsts  # of its image's copies: 0, 1, ...
        return items[((nth + phases) / shares.repeat_interleave(shares)).argsort(stable=True)]

    def _count(self, round: int) -> list[int]:
        """Items of each part in a round."""
        if self._copies is None:
            return self._starts.diff().tolist()
        return [int(self._shares(part, round).sum()) for part in range(len(self._starts) - 1)]

    def _shares(self, part: int, round: int) -> Tensor:
        """Copies int64 of each image of a part in a round."""
        images = self._images(part)
        if self._copies is None:
            return torch.ones_like(images)
        copies = self._copies[self._starts[part] : self._starts[part + 1]].long()
        return (copies + (images + round) % self._num_rounds) // self._num_rounds

    def _images(self, part: int) -> Tensor:
        """The numbers int64 of a part's images."""
        return torch.arange(int(self._starts[part]), int(self._starts[part + 1]))

    def _generator(self, purpose: str, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(derive(self._seed, purpose, number))
