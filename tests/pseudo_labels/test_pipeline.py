"""Labelling many parts: the same bytes by any threads and processes, and errors that cost a part each."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pytest
import torch

from noisystudent_core.config import ModelConfig, PredictConfig
from noisystudent_core.data.decoders import Decoders
from noisystudent_core.data.ingest import image_id
from noisystudent_core.data.schemas import to_bytes
from noisystudent_core.errors import ConfigurationError, CorruptArtifactError, DeviceMemoryError, WorkerDiedError
from noisystudent_core.models.architectures import Normalised, create_model
from noisystudent_core.pseudo_labels import pipeline
from noisystudent_core.pseudo_labels.forward import CPU_PIXELS, Forward
from noisystudent_core.pseudo_labels.pipeline import Labeller, Read
from tests.data.processes import are_gone, processes

SIZE, NUM_CLASSES = 32, 3
CONFIG = PredictConfig(keep="distribution", batch_size=4)
SIZES = (11, 0, 4, 1, 30)  # rows of the parts

Found = Sequence[tuple[object, pa.Table | Exception]]


def opened(net: Any, config: PredictConfig = CONFIG, num_decoders: int | None = None) -> Labeller:
    return Labeller(Forward(net, config, SIZE), config, SIZE, 1.0, num_decoders)


@pytest.fixture(scope="module")
def net() -> Normalised:
    model = ModelConfig(name="test_resnet", resolution_px=SIZE, head_init_range=1.0)
    return Normalised(create_model(model, NUM_CLASSES, seed=0, batch_norm_momentum=0.1)).eval()


@pytest.fixture(scope="module")
def tables(picture: Callable[..., bytes]) -> list[pa.Table]:
    numbers = iter(range(sum(SIZES)))
    return [table([picture(next(numbers), number % NUM_CLASSES, "JPEG") for number in range(n)]) for n in SIZES]


def table(images: list[bytes]) -> pa.Table:
    ids = pa.array(map(image_id, images), pa.binary(16))
    image, reason = pa.array(images, pa.binary()), pa.nulls(len(images), pa.string())
    return pa.table({"image_id": ids, "image": image, "reason": reason})


def reads(tables: list[pa.Table]) -> Iterator[tuple[int, Read]]:
    return ((number, lambda part=part: part) for number, part in enumerate(tables))


def good(found: Found) -> list[pa.Table]:
    return [part for _, part in found if not isinstance(part, Exception)]


def to_files(found: Found) -> list[bytes]:
    return [to_bytes(part, part.schema) for part in good(found)]


@pytest.fixture(scope="module")
def expected(net: Normalised, tables: list[pa.Table]) -> list[bytes]:
    with opened(net) as labeller:
        found = list(labeller.label(reads(tables)))
    assert [key for key, _ in found] == list(range(len(SIZES)))
    assert [len(part) for part in good(found)] == list(SIZES)
    return to_files(found)


@pytest.mark.parametrize("num_cores", [1, 3])
@pytest.mark.parametrize("num_torch_threads", [1, 2])
def test_bytes_do_not_depend_on_threads(
    net: Normalised,
    tables: list[pa.Table],
    expected: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    num_cores: int,
    num_torch_threads: int,
) -> None:
    monkeypatch.setattr(pipeline, "num_cores", lambda: num_cores)
    torch.set_num_threads(num_torch_threads)
    try:
        with opened(net) as labeller:
            assert to_files(list(labeller.label(reads(tables)))) == expected
        assert torch.get_num_threads() == num_torch_threads
    finally:
        torch.set_num_threads(1)


def test_decoding_processes_give_the_same_bytes_and_one_that_dies_costs_its_part(
    net: Normalised, tables: list[pa.Table], expected: list[bytes]
) -> None:
    with opened(net, CONFIG, 2) as labeller:
        assert to_files(list(labeller.label(reads(tables)))) == expected
        decoders = labeller._decoding._processes
        assert isinstance(decoders, Decoders)
        pids = processes(decoders)
        for pid in pids[1:]:
            os.kill(pid, signal.SIGSTOP)  # so that they die over what they are given
        told = labeller.label(reads(tables))
        threading.Timer(0.5, lambda: [os.kill(pid, signal.SIGKILL) for pid in pids[1:]]).start()
        found = list(told)
        lost = [number for number, part in found if isinstance(part, WorkerDiedError)]
        assert lost and len(lost) <= 2  # two processes, so two batches at most
        assert to_files(found) == [file for number, file in enumerate(expected) if number not in lost]
        assert to_files(list(labeller.label(reads(tables)))) == expected  # others have taken their place
        after = processes(decoders)
        assert len(after) == 3 and after[0] == pids[0] and not set(after[1:]) & set(pids)
    assert are_gone(after)


def test_processes_start_when_there_is_enough_to_do_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "num_cores", lambda: 1)
    decoding = pipeline._Decoding(None, on_gpu=True)
    try:
        here = decoding.by(pipeline.PROCESSES_AFTER_BYTES)
        assert here is not None and here.num_workers == 0
        assert decoding.by(1) is here  # they load their libraries
        end = time.monotonic() + 60
        while (decoders := decoding.by(1)) is here:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert decoders is not None and decoders.num_workers == 1
    finally:
        decoding.close()


def test_a_part_that_cannot_be_read_costs_no_other(
    net: Normalised, tables: list[pa.Table], expected: list[bytes]
) -> None:
    def fail() -> pa.Table:
        raise CorruptArtifactError("part 2: changed")

    parts = [(number, fail if number == 2 else read) for number, read in reads(tables)]
    with opened(net) as labeller:
        found = list(labeller.label(parts))
    assert isinstance(found[2][1], CorruptArtifactError)
    assert to_files(found) == expected[:2] + expected[3:]


class Failing(torch.nn.Module):
    """Too large for any device."""

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("place", torch.nn.Parameter(torch.zeros(1)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise DeviceMemoryError("too large")


def test_what_the_net_or_the_list_of_parts_raises_is_raised(net: Normalised, tables: list[pa.Table]) -> None:
    def broken() -> Iterator[tuple[int, Read]]:
        yield 0, lambda: tables[0]
        raise OSError("no more parts")

    with (
        opened(net) as labeller,
        pytest.raises(OSError, match="no more parts"),
    ):
        list(labeller.label(broken()))
    with (
        opened(Failing()) as labeller,
        pytest.raises(DeviceMemoryError, match="too large"),
    ):
        list(labeller.label(reads(tables)))


def test_who_stops_taking_stops_the_reading(net: Normalised, tables: list[pa.Table]) -> None:
    num_read = 0

    def read() -> pa.Table:
        nonlocal num_read
        num_read += 1
        return tables[2]

    with opened(net) as labeller:
        labelling = labeller.label((number, read) for number in range(1000))
        for _ in range(3):
            next(labelling)
        labelling.close()  # pyright: ignore[reportAttributeAccessIssue]
        assert 3 <= num_read < 40
        assert [key for key, _ in labeller.label(reads(tables))] == list(range(len(SIZES)))  # and can begin again


def test_batches_on_a_cpu_are_small_where_images_are_large(net: Normalised) -> None:
    for size, expected in ((224, 8), (32, 256), (600, 1)):
        assert Forward(net, PredictConfig(), size).batch_size == expected
        assert expected * size**2 <= CPU_PIXELS
    assert Forward(net, PredictConfig(batch_size=3), 224).batch_size == 3


def test_bf16_and_compiled_nets_agree_roughly(net: Normalised) -> None:
    images = torch.randint(0, 256, (3, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    exact = Forward(net, CONFIG, SIZE)(images)
    found = Forward(net, CONFIG.model_copy(update={"precision": "bf16"}), SIZE)(images)
    assert found.dtype == torch.float32
    assert 0 < (found - exact).abs().max() < 0.02


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_decoder_without_a_gpu_is_refused(net: Normalised) -> None:
    with pytest.raises(ConfigurationError, match='decoder="gpu" on a cpu device: needs an NVIDIA GPU; take'):
        opened(net, PredictConfig(decoder="gpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("decoder", ["cpu", "gpu"])
@pytest.mark.parametrize("num_decoders", [None, 2])
def test_a_gpu_agrees_with_the_cpu(
    net: Normalised, tables: list[pa.Table], decoder: str, num_decoders: int | None
) -> None:
    def probabilities(net: Normalised, config: PredictConfig) -> torch.Tensor:
        with opened(net, config, num_decoders) as labeller:
            found = good(list(labeller.label(reads(tables))))
        return torch.tensor([row for part in found for row in part["probabilities"].to_pylist()])

    exact = probabilities(net, CONFIG)
    config = CONFIG.model_copy(update={"decoder": decoder})
    assert (probabilities(net.cuda(), config) - exact).abs().max() < 0.03
    net.cpu()
