"""Decoding processes: the same pixels as here, damaged images named, and none that outlives whom it works for."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import pytest
import torch

from noisystudent_core.data.decoders import Decoders
from noisystudent_core.errors import ConfigurationError, WorkerDiedError
from tests.data.processes import are_gone, processes

NUM_WORKERS = 3
Workers = Callable[[int], Decoders]
Picture = Callable[..., bytes]


@pytest.fixture
def decoders(workers: Workers) -> Decoders:
    return workers(NUM_WORKERS)


def decode(decoders: Decoders, images: list[bytes]) -> tuple[torch.Tensor, list[str | None]]:
    out = torch.full((len(images), 3, 24, 24), 7, dtype=torch.uint8)
    return out, decoders.submit(images, 24, 0.8, out).result(60)


def test_pixels_and_reasons_are_those_of_this_process(decoders: Decoders, workers: Workers, picture: Picture) -> None:
    good = [picture(number, kind=kind) for number in range(3) for kind in ("PNG", "JPEG")]
    images = [*good, b"", good[0][:200], b"no image"]
    expected, reasons = decode(workers(0), images)
    found, said = decode(decoders, images)
    assert torch.equal(found, expected)
    assert said == reasons == [None] * 6 + ["empty", "truncated", "not_an_image"]
    assert not found[6:].any()


def test_an_error_is_that_of_the_decoder_and_the_process_goes_on(decoders: Decoders, picture: Picture) -> None:
    out = torch.empty(1, 3, 24, 24, dtype=torch.uint8)
    for _ in range(2 * NUM_WORKERS):
        with pytest.raises(ConfigurationError, match="crop_fraction"):
            decoders.submit([picture(0)], 24, -1.0, out).result(60)
    assert decode(decoders, [picture(0)])[1] == [None]


def test_chunks_are_decoded_side_by_side_and_stay_in_place(
    decoders: Decoders, workers: Workers, picture: Picture
) -> None:
    images = [picture(number) for number in range(40)]
    out, expected = (torch.empty(40, 3, 24, 24, dtype=torch.uint8) for _ in range(2))
    futures = [decoders.submit(images[i : i + 3], 24, 1.0, out[i : i + 3]) for i in range(0, 40, 3)]
    assert all(reason is None for future in futures for reason in future.result(60))
    workers(0).submit(images, 24, 1.0, expected).result()
    assert torch.equal(out, expected)


def test_interrupts_and_requests_to_stop_are_left_to_whom_they_work_for(decoders: Decoders, picture: Picture) -> None:
    assert decode(decoders, [picture(1)])[1] == [None]  # they are up
    pids = processes(decoders)
    assert len(pids) == 1 + NUM_WORKERS
    for pid in pids:
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    for _ in range(2 * NUM_WORKERS):
        assert decode(decoders, [picture(1)])[1] == [None]
    assert processes(decoders) == pids


def test_processes_that_are_not_up_yet_are_not_waited_for() -> None:
    started = time.monotonic()
    decoders = Decoders(1)
    pids = processes(decoders)
    decoders.close()
    assert time.monotonic() - started < 4  # loading takes longer
    assert are_gone(pids)


def fit(picture: bytes, tell: Connection) -> None:
    """Decode until a process dies, tell of it, and go on until the end."""
    decoders = Decoders(2)
    out = torch.empty(1, 3, 24, 24, dtype=torch.uint8)
    decoders.submit([picture], 24, 1.0, out).result()
    tell.send(processes(decoders))
    while True:
        try:
            decoders.submit([picture], 24, 1.0, out).result()
        except WorkerDiedError as error:
            tell.send(str(error))


def test_death_of_a_process_is_an_error_and_death_of_the_fit_the_end_of_all(picture: Picture) -> None:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=fit, args=(picture(0), theirs))
    process.start()
    assert process.pid is not None and ours.poll(60)
    pids = ours.recv()
    assert len(pids) == 3 and not are_gone(pids)
    os.kill(pids[1], signal.SIGKILL)
    assert ours.poll(20)
    assert ours.recv().startswith("a decoding process ended over 1 images; let there be fewer than 2 (exec")
    assert not are_gone(pids[:1]) and not are_gone(pids[2:])
    os.kill(process.pid, signal.SIGKILL)
    end = time.monotonic() + 20
    while not are_gone(pids):
        assert time.monotonic() < end
        time.sleep(0.05)
    process.join()
