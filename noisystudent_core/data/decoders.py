"""Processes that decode images: `python -m noisystudent_core.data.decoders DESCRIPTOR`, a socket that asks for them.

One process loads the libraries, which takes seconds, and makes as many copies of itself as are asked for, which share
them; a copy that dies is replaced. Each has a socket, through which images come and pixels go: containers grant little
shared memory. A decoding process ends when its socket closes: with the process it works for, however that ends.
"""

import os
import select
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
from threading import Lock
from typing import Self

import torch
from torch import Tensor

from noisystudent_core.data.image_files import NUM_THREADS
from noisystudent_core.data.images import decode_batch
from noisystudent_core.data.parts import ANY_SIZE
from noisystudent_core.errors import WorkerDiedError, by_name

CLOSE_S = 1.0  # that the processes have to end; one that still loads its libraries takes longer
Reasons = list[str | None]  # of each image, why it cannot be decoded


class Decoders:
    """`num_workers` decoding processes; with 0 of them this process decodes. To be closed, or used with `with`."""

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers
        self._idle: SimpleQueue[Connection] = SimpleQueue()
        self._threads = ThreadPoolExecutor(max(1, num_workers), "decoder")  # one waits for each process
        self._starting = Lock()
        self._parent: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None  # to the parent; readable once its libraries are loaded
        for _ in range(num_workers):
            self._idle.put(self._connect())

    def submit(self, images: Sequence[bytes], size: int, crop_fraction: float, out: Tensor) -> Future[Reasons]:
        """Decode `images` into `out` uint8 [N, 3, size, size], on the CPU; the future tells which could not be.

        It raises `WorkerDiedError` where the process ended over it; another one has taken its place then.
        """
        call = self._ask if self.num_workers else _decode
        return self._threads.submit(call, list(images), size, crop_fraction, out)

    def are_up(self) -> bool:
        """Whether images would be decoded at once, not only when the processes have loaded their libraries."""
        return self._control is None or bool(select.select([self._control], [], [], 0)[0])

    def close(self) -> None:
        """End the processes; what is still to do is given up."""
        self._threads.shutdown(cancel_futures=True)
        while not self._idle.empty():
            self._idle.get().close()
        if self._parent is not None and self._control is not None:
            self._control.close()
            _end(self._parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _connect(self) -> Connection:
        """A line to a new process, which answers when the libraries are loaded."""
        ours, theirs = socket.socketpair()
        with theirs, self._starting:
            if self._parent is None or self._parent.poll() is not None:
                self._start()
            assert self._control is not None
            with suppress(ConnectionError):  # the parent has died just now: the line is closed, its first use tells
                socket.send_fds(self._control, [b"1"], [theirs.fileno()])
        return Connection(ours.detach())

    def _start(self) -> None:
        if self._control is not None:
            self._control.close()
        self._control, theirs = socket.socketpair()
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # a process with threads is not to divide
        arguments = [sys.executable, "-m", "noisystudent_core.data.decoders", str(theirs.fileno())]
        with theirs:
            self._parent = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], env=os.environ | one_thread
            )

    def _ask(self, images: list[bytes], size: int, crop_fraction: float, out: Tensor) -> Reasons:
        connection = self._idle.get()
        try:
            connection.send((images, size, crop_fraction))
            answer = connection.recv()
            if not isinstance(answer, tuple):
                connection.recv_bytes_into(out.numpy().reshape(-1).data)
        except (EOFError, ConnectionError) as error:
            connection.close()
            connection = self._connect()
            raise WorkerDiedError(
                f"a decoding process ended over {len(images)} images; let there be fewer than {self.num_workers} "
                "(execution.num_workers of a fit, num_decoders of labelling) if memory was short"
            ) from error
        finally:
            self._idle.put(connection)
        if isinstance(answer, tuple):
            raise by_name(*answer)
        return answer


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(CLOSE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _decode(images: list[bytes], size: int, crop_fraction: float, out: Tensor) -> Reasons:
    pixels, reasons = decode_batch(images, size, crop_fraction, num_threads=NUM_THREADS, max_pixels=ANY_SIZE)
    out.copy_(pixels)
    return reasons


def _divide(control: socket.socket) -> None:
    """Become a process for each socket that comes, until nobody is there to send."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # meant for the process we work for, which may still need us
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are not asked after
    torch.set_num_threads(1)
    with suppress(ConnectionError):
        control.send(b"1")
        while (received := socket.recv_fds(control, 1, 1))[0]:
            _, [descriptor], _, _ = received
            if os.fork() == 0:
                control.close()
                _live(descriptor)
            os.close(descriptor)
    with suppress(ChildProcessError):
        os.wait()  # returns when all of them are gone
    os._exit(0)  # leaving torch in order takes seconds


def _live(descriptor: int) -> None:
    try:
        _serve(Connection(descriptor))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


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
    _divide(socket.socket(fileno=int(sys.argv[1])))
