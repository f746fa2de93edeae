"""Processes that decode images: `python -m noisystudent_core.data.decoders DESCRIPTOR ...`, a socket for each.

One process loads the libraries, which takes seconds, and divides itself into as many as are asked for, which share
them. Images come and pixels go through the sockets: containers grant little shared memory. A decoding process ends when
its socket closes: with the process it works for, however that ends.
"""

import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Self

import torch
from torch import Tensor

from noisystudent_core.data.images import decode_batch
from noisystudent_core.data.parts import ANY_SIZE, NUM_THREADS
from noisystudent_core.errors import WorkerDiedError, by_name

CLOSE_S = 1.0  # that the processes have to end; one that still loads its libraries takes longer
Reasons = list[str | None]  # of each image, why it cannot be decoded


class Decoders:
    """`num_workers` decoding processes; with 0 of them this process decodes. To be closed, or used with `with`."""

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers
        self._idle: SimpleQueue[Connection] = SimpleQueue()
        self._threads = ThreadPoolExecutor(max(1, num_workers), "decoder")  # one waits for each process
        self._parent = self._start() if num_workers else None

    def submit(self, images: Sequence[bytes], size: int, crop_fraction: float, out: Tensor) -> Future[Reasons]:
        """Decode `images` into `out` uint8 [N, 3, size, size], on the CPU; the future tells which could not be.

        It raises `WorkerDiedError` where the process ended over it.
        """
        call = self._ask if self.num_workers else _decode
        return self._threads.submit(call, list(images), size, crop_fraction, out)

    def close(self) -> None:
        """End the processes; what is still to do is given up."""
        self._threads.shutdown(cancel_futures=True)
        while not self._idle.empty():
            self._idle.get().close()
        if self._parent is not None:
            try:
                self._parent.wait(CLOSE_S)
            except subprocess.TimeoutExpired:
                self._parent.kill()
                self._parent.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _start(self) -> subprocess.Popen[bytes]:
        pairs = [socket.socketpair() for _ in range(self.num_workers)]
        theirs = [other.fileno() for _, other in pairs]
        arguments = [sys.executable, "-m", "noisystudent_core.data.decoders", *map(str, theirs)]
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # a process with threads is not to divide
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, pass_fds=theirs, env=os.environ | one_thread)
        for ours, other in pairs:
            other.close()
            self._idle.put(Connection(ours.detach()))
        return process

    def _ask(self, images: list[bytes], size: int, crop_fraction: float, out: Tensor) -> Reasons:
        connection = self._idle.get()
        try:
            connection.send((images, size, crop_fraction))
            answer = connection.recv()
            if isinstance(answer, tuple):
                raise by_name(*answer)
            connection.recv_bytes_into(out.numpy().reshape(-1).data)
        except (EOFError, ConnectionError) as error:
            raise WorkerDiedError(
                f"a decoding process ended over {len(images)} images; lower execution.num_workers="
                f"{self.num_workers} if memory was short"
            ) from error
        finally:
            self._idle.put(connection)
        return answer


def _decode(images: list[bytes], size: int, crop_fraction: float, out: Tensor) -> Reasons:
    pixels, reasons = decode_batch(images, size, crop_fraction, num_threads=NUM_THREADS, max_pixels=ANY_SIZE)
    out.copy_(pixels)
    return reasons


def _divide(descriptors: list[int]) -> None:
    """Become a process for each socket, and wait for all of them."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # meant for the process we work for, which may still need us
    torch.set_num_threads(1)
    for descriptor in descriptors:
        if os.fork() == 0:
            for other in set(descriptors) - {descriptor}:
                os.close(other)
            try:
                _serve(Connection(descriptor))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
    for descriptor in descriptors:
        os.close(descriptor)
    for _ in descriptors:
        os.wait()
    os._exit(0)  # leaving torch in order takes seconds


def _serve(connection: Connection) -> None:
    """Decode what comes, until nobody is there to send."""
    with suppress(EOFError, ConnectionError):
        while True:
            images, size, crop_fraction = connection.recv()
            try:
                pixels, reasons = decode_batch(images, size, crop_fraction, max_pixels=ANY_SIZE)
            except Exception as error:  # MemoryError, above all
                connection.send((type(error).__name__, str(error)))
                continue
            connection.send(reasons)
            connection.send_bytes(pixels.numpy().reshape(-1).data)


if __name__ == "__main__":
    _divide([int(argument) for argument in sys.argv[1:]])
