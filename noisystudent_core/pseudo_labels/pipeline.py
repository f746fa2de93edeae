"""Parts of images in, predictions out: reading, decoding and the net's work all go on at once.

On a CPU each of as many threads as there are cores decodes a batch and gives it to the net, with one of torch's
threads: decoders and net release the interpreter's lock, nothing is copied and nobody waits for anybody. A GPU is fed
by decoding processes, which are started once there is enough to do for them, and by threads of this process until they
are up; or it decodes itself. On a CPU a part's bytes depend on none of this.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Full, Queue
from typing import Any, Self

import pyarrow as pa
import torch
from torch import Tensor

from noisystudent_core.config.settings import PredictConfig
from noisystudent_core.data.decoders import Decoders, Reasons
from noisystudent_core.data.gpu_jpeg import check_gpu, decode_on_gpu
from noisystudent_core.data.images import decode_batch
from noisystudent_core.data.mixing import id_seeds
from noisystudent_core.data.parts import ANY_SIZE
from noisystudent_core.data.reading import Key, Read, read_ahead
from noisystudent_core.pseudo_labels.forward import Forward
from noisystudent_core.pseudo_labels.rows import Labelled, labelled, predictions

PARTS_WAITING = 8  # that are begun and not taken yet
LOOK_S = 0.1  # after which one who waits to hand over a part looks whether it is still wanted
CHUNK = 32  # images that a process decodes at a time
PROCESSES_AFTER_BYTES = 64 * 2**20  # of images that were decoded here: less is done before processes are up
GPU_STREAMS = 3  # batches that are on their way to, on and from a GPU

Decode = Callable[[], tuple[Tensor, Reasons]]  # a batch: uint8 [N, 3, S, S], and which are no images


class Labeller:
    """Labels parts with `forward`, for images of `size` px, the middle of each, its shorter side / crop_fraction.

    To be closed, or used with `with`. `num_decoders` stands for `config.num_decoders` where it is not None. Raises
    ConfigurationError for `decoder="gpu"` where there is no GPU to decode with.
    """

    def __init__(
        self, forward: Forward, config: PredictConfig, size: int, crop_fraction: float, num_decoders: int | None = None
    ) -> None:
        self._forward = forward
        self._config, self._geometry = config, (size, crop_fraction)
        self._device = self._forward.device
        on_gpu = self._device.type == "cuda"
        if config.decoder == "gpu":
            check_gpu(self._device)
        num_threads = GPU_STREAMS if on_gpu else num_cores()
        self._num_threads_before = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(num_threads, "labeller", initializer=self._prepare)
        self._decoding = _Decoding(config.num_decoders if num_decoders is None else num_decoders, on_gpu)
        in_decoders = -(-2 * self._decoding.num_processes * CHUNK // self._forward.batch_size)
        self._slots = threading.Semaphore(2 * num_threads + in_decoders)  # batches under way: bounds memory

    def label(self, parts: Iterable[tuple[Key, Read]]) -> Iterator[tuple[Key, pa.Table | Exception]]:
        """Yield for each part, in order, its key and as many rows of the `predictions` schema as it has images.

        Of a part that cannot be read or decoded (a process died over it) the error is yielded, and the others go on.
        What the net raises is raised here. Parts are read in threads, ahead of what is labelled.
        """
        handed = _Handed()
        with ThreadPoolExecutor(1, "feeder") as feeder:
            feeding = feeder.submit(self._feed, parts, handed)
            try:
                while (item := handed.take()) is not None:
                    key, part = item
                    yield key, part if isinstance(part, Exception) else part.result()
                feeding.result()
            finally:
                handed.stopped.set()

    def close(self) -> None:
        """End decoding processes and threads; what is still to do is given up."""
        self._pool.shutdown(cancel_futures=True)
        self._decoding.close()
        torch.set_num_threads(self._num_threads_before)  # of threads to come: those of the pool had one each

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _feed(self, parts: Iterable[tuple[Any, Read]], handed: "_Handed") -> None:
        try:
            for key, table in read_ahead(parts):
                part = table if isinstance(table, Exception) else self._begin(table, handed.stopped)
                if not handed.put((key, part)):
                    break
        finally:
            handed.put(None)

    def _begin(self, table: pa.Table, stopped: threading.Event) -> "_Part":
        """Have the images of a part labelled, batch by batch; a part without rows still has its [0, C]."""
        part = _Part(table["image_id"])
        noise, batch_size = self._config.noise, self._forward.batch_size
        seeds = None if noise is None else id_seeds(noise.seed, table["image_id"])
        for start in range(0, max(1, table.num_rows), batch_size):
            self._slots.acquire()
            if stopped.is_set():
                self._slots.release()
                break
            rows = table.slice(start, batch_size)
            seeds_B = None if seeds is None else seeds[start : start + batch_size]
            future = self._start(rows["image"].to_pylist(), rows["reason"].to_pylist(), seeds_B)
            future.add_done_callback(lambda _: self._slots.release())
            part.batches.append(future)
        return part

    def _start(
        self, images: list[bytes | None], refused: Reasons, seeds_B: Tensor | None
    ) -> "Future[Labelled | Exception]":
        """Decode a batch, but for what was refused when it was taken in, and give it to the net."""
        data = [b"" if reason else image or b"" for image, reason in zip(images, refused, strict=True)]
        decoders = None if self._config.decoder == "gpu" else self._decoding.by(sum(map(len, data)))
        decode = self._here(data) if decoders is None else self._there(data, decoders)
        return self._pool.submit(self._label, decode, refused, seeds_B)

    def _here(self, data: list[bytes]) -> Decode:
        if self._config.decoder == "gpu":
            return lambda: decode_on_gpu(data, *self._geometry, self._device)
        return lambda: decode_batch(data, *self._geometry, max_pixels=ANY_SIZE)

    def _there(self, data: list[bytes], decoders: Decoders) -> Decode:
        """Begin to decode now."""
        size, is_pinned = self._geometry[0], self._device.type == "cuda"
        pixels = torch.empty(len(data), 3, size, size, dtype=torch.uint8, pin_memory=is_pinned)
        chunks = [
            decoders.submit(data[start : start + CHUNK], *self._geometry, pixels[start : start + CHUNK])
            for start in range(0, len(data), CHUNK)
        ]
        return lambda: (pixels, [reason for chunk in chunks for reason in chunk.result()])

    def _label(self, decode: Decode, refused: Reasons, seeds_B: Tensor | None) -> Labelled | Exception:
        try:
            pixels, reasons = decode()
        except Exception as error:
            return error
        reasons = [before or now for before, now in zip(refused, reasons, strict=True)]
        return labelled(self._forward(pixels, seeds_B), reasons, self._config.keep)

    def _prepare(self) -> None:
        """Make a thread of the pool ready."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # the net is there
            torch.cuda.set_stream(torch.cuda.Stream(self._device))
        else:
            torch.set_num_threads(1)


@dataclass(frozen=True)
class _Part:
    """A part on its way."""

    image_ids: pa.ChunkedArray
    batches: list[Future[Labelled | Exception]] = field(default_factory=list)

    def result(self) -> pa.Table | Exception:
        found = []
        for batch in self.batches:
            said = batch.result()
            if isinstance(said, Exception):
                return said
            found.append(said)
        return predictions(self.image_ids, found)


class _Handed:
    """Parts that one thread hands to another, in order, until None; a few of them wait."""

    def __init__(self) -> None:
        self.stopped = threading.Event()  # nobody takes any more
        self._queue: Queue[tuple[Any, _Part | Exception] | None] = Queue(PARTS_WAITING)

    def take(self) -> tuple[Any, _Part | Exception] | None:
        return self._queue.get()

    def put(self, item: tuple[Any, _Part | Exception] | None) -> bool:
        """Whether it was handed over: not where nobody takes it."""
        while not self.stopped.is_set():
            with suppress(Full):
                self._queue.put(item, timeout=LOOK_S)
                return True
        return False


class _Decoding:
    """Who decodes for a net: processes, or threads of this one; None for the thread that calls the net."""

    def __init__(self, num_processes: int | None, on_gpu: bool) -> None:
        self._is_lazy = num_processes is None
        self.num_processes = (num_cores() if on_gpu else 0) if num_processes is None else num_processes
        self._here = Decoders(0) if on_gpu else None
        self._processes: Decoders | None = None
        self._num_bytes = 0

    def by(self, num_bytes: int) -> Decoders | None:
        """Who is to decode the next images, of so many bytes."""
        self._num_bytes += num_bytes
        is_enough = not self._is_lazy or self._num_bytes > PROCESSES_AFTER_BYTES
        if self._processes is None and self.num_processes and is_enough:
            self._processes = Decoders(self.num_processes)
        is_up = self._processes is not None and (not self._is_lazy or self._processes.are_up())
        return self._processes if is_up else self._here

    def close(self) -> None:
        """End the processes."""
        for decoders in (self._here, self._processes):
            if decoders is not None:
                decoders.close()


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
