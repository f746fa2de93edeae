"""Images that are read and decoded while a fit goes on: larger sets than memory holds, from any file system.

A process of a fit keeps the encoded images of its own share of the windows in use (data/order.py) and of the next one,
which is read meanwhile. The batches are those of `ResidentStream`, bit for bit, whatever the number of processes.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from noisystudent_core.data.decoders import Decoders, Reasons
from noisystudent_core.data.encoded import EncodedImages, undecodable
from noisystudent_core.data.order import Order, Window
from noisystudent_core.data.streams import Share

NUM_READERS = 4  # parts of a window that are read at once
STEPS_AHEAD = 3  # that are decoded while one is computed
CHUNK = 32  # images that a process decodes at a time


class PartStream:
    """Images that are read by parts and decoded by `decoders`, steps ahead unless those are this very process.

    Images are decoded to `size` px, the middle of each, its shorter side times `crop_fraction`. `batch` raises
    `CorruptArtifactError` for an image that could be decoded when it was taken in, and cannot now.
    """

    def __init__(
        self,
        source: EncodedImages,
        order: Order,
        share: Share,
        decoders: Decoders,
        size: int,
        crop_fraction: float,
        device: torch.device,
    ) -> None:
        self._source, self._order, self._share, self._decoders = source, order, share, decoders
        self._size, self._crop_fraction, self._device = size, crop_fraction, device
        self._windows = _Windows(source, order, share)
        self._reader = ThreadPoolExecutor(1, "reader")  # takes the steps in turn
        self._ahead: dict[int, Future[_Decoding]] = {}  # by step
        self._last: tuple[int, tuple[Tensor, Tensor]] | None = None

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """See `Stream`; a step asked for twice in a row is decoded once."""
        if self._last is None or self._last[0] != step:
            self._last = step, self._wait(step)
        return self._last[1]

    def close(self) -> None:
        """Stop reading ahead."""
        self._reader.shutdown(wait=False, cancel_futures=True)
        self._windows.close()

    def _wait(self, step: int) -> tuple[Tensor, Tensor]:
        wanted = range(step, step + 1 + (STEPS_AHEAD if self._decoders.num_workers else 0))
        for other in set(self._ahead) - set(wanted):
            self._ahead.pop(other).cancel()
        for number in wanted:
            if number not in self._ahead:
                self._ahead[number] = self._reader.submit(self._begin, number)
        decoding = self._ahead.pop(step).result()
        for future, numbers in decoding.chunks:
            self._check(future.result(), numbers)
        to = self._device
        return decoding.images.to(to, non_blocking=True), decoding.known.to(to, non_blocking=True)

    def _begin(self, step: int) -> "_Decoding":
        """Read what a step needs and have it decoded."""
        numbers, encoded, known = self._windows.take(step)
        is_pinned = self._device.type == "cuda"
        images = torch.empty(len(numbers), 3, self._size, self._size, dtype=torch.uint8, pin_memory=is_pinned)
        chunks = []
        for start in range(0, len(numbers), CHUNK):
            chunk = slice(start, start + CHUNK)
            future = self._decoders.submit(encoded[chunk], self._size, self._crop_fraction, images[chunk])
            chunks.append((future, numbers[chunk]))
        return _Decoding(images, known.pin_memory() if is_pinned else known, chunks)

    def _check(self, reasons: Reasons, numbers: Tensor) -> None:
        for reason, part, place in zip(reasons, *map(Tensor.tolist, self._order.parts_of(numbers)), strict=True):
            if reason is not None:
                raise undecodable(self._source, part, place, reason)


@dataclass(frozen=True)
class _Decoding:
    """A share of a step on its way: images uint8 [N, 3, S, S], what is known, and who fills in which images."""

    images: Tensor
    known: Tensor
    chunks: list[tuple[Future[Reasons], Tensor]]


@dataclass(frozen=True, eq=False)
class _Held:
    """Some images of a part, by their numbers int64 [N], ascending, once they are read."""

    numbers: Tensor
    found: Future[tuple[list[bytes], Tensor]]


class _Windows:
    """The encoded images of a share in the windows in use, and in the next one."""

    def __init__(self, source: EncodedImages, order: Order, share: Share) -> None:
        self._source, self._order = source, order
        self._span = share.span(order.batch_size)
        self._readers = ThreadPoolExecutor(NUM_READERS, "parts")
        self._held: dict[Window, dict[int, _Held]] = {}  # by window and part

    def take(self, step: int) -> tuple[Tensor, list[bytes], Tensor]:
        """The images of a step's share: numbers int64 [N], as they are stored, and what is known of them [N, ...]."""
        start, stop = (step * self._order.batch_size + offset for offset in self._span)
        in_use = self._order.windows(start, stop)
        self._hold([*in_use, *self._order.windows(in_use[-1].stop, in_use[-1].stop + 1)])
        numbers = [self._order.items(w)[max(start - w.start, 0) : stop - w.start] for w in in_use]
        found = [self._find(window, wanted) for window, wanted in zip(in_use, numbers, strict=True)]
        return torch.cat(numbers), [image for images, _ in found for image in images], torch.cat([k for _, k in found])

    def close(self) -> None:
        """Read no more."""
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _hold(self, windows: list[Window]) -> None:
        """Have these windows read, and no others kept."""
        for window in windows:
            if window not in self._held:
                self._held[window] = self._read(window)
        dropped = [held for window in self._held.keys() - set(windows) for held in self._held.pop(window).values()]
        kept = {held for parts in self._held.values() for held in parts.values()}
        for held in set(dropped) - kept:
            held.found.cancel()

    def _read(self, window: Window) -> dict[int, _Held]:
        """Begin to read this share's images of a window; a part that is held whole is not read again."""
        whole = {part: held for parts in self._held.values() for part, held in parts.items() if self._is_whole(held)}
        offsets = torch.arange(window.start, window.stop) % self._order.batch_size
        mine = (offsets >= self._span[0]) & (offsets < self._span[1])
        numbers = self._order.items(window)[mine].unique()
        parts, places = self._order.parts_of(numbers)
        indices, sizes = parts.unique_consecutive(return_counts=True)
        held = {}
        for part, of_part, there in zip(
            indices.tolist(), numbers.split(sizes.tolist()), places.split(sizes.tolist()), strict=True
        ):
            held[part] = whole.get(part) or _Held(of_part, self._readers.submit(self._source.read, part, there))
        return held

    def _is_whole(self, held: _Held) -> bool:
        part = int(self._order.parts_of(held.numbers[:1])[0])
        return len(held.numbers) == self._source.part_sizes[part]

    def _find(self, window: Window, numbers: Tensor) -> tuple[list[bytes], Tensor]:
        """The images of these numbers [N], from a window that is held."""
        images: list[bytes] = [b""] * len(numbers)
        known: Tensor | None = None
        parts, _ = self._order.parts_of(numbers)
        for part in parts.unique().tolist():
            held = self._held[window][part]
            stored, known_here = held.found.result()
            wanted = (parts == part).nonzero().squeeze(1)
            there = torch.searchsorted(held.numbers, numbers[wanted])
            for index, place in zip(wanted.tolist(), there.tolist(), strict=True):
                images[index] = stored[place]
            if known is None:
                known = known_here.new_empty(len(numbers), *known_here.shape[1:])
            known[wanted] = known_here[there]
        assert known is not None
        return images, known
