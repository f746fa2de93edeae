"""Streaming shows what resident images show, bit for bit: any number of ranks and workers, from any step on."""

from collections import Counter
from collections.abc import Callable
from contextlib import closing

import pytest
import torch
from torch import Tensor

from noisystudent_core.data import decoders as decoders_module
from noisystudent_core.data.decoders import Decoders
from noisystudent_core.data.encoded import EncodedImages
from noisystudent_core.data.images import decode_image
from noisystudent_core.data.loader import STEPS_AHEAD, PartStream
from noisystudent_core.data.order import Order
from noisystudent_core.data.resident import load
from noisystudent_core.data.streams import ResidentStream, Share
from noisystudent_core.errors import CorruptArtifactError
from noisystudent_core.storage.manifest import Artifact, Part
from tests.data.stored import COPIES, DAMAGED, NUM_LABELLED, Stored, numbers_of, store

CPU = torch.device("cpu")
SIZE_PX, CROP, BATCH = 24, 0.8, 8
NUM_ITEMS = sum(COPIES.values())
WINDOWS = (1, 17, 10_000)  # a part each; several; one

Workers = Callable[[int], Decoders]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, picture, write_source) -> Stored:
    return store(str(tmp_path_factory.mktemp("stored")), picture, write_source)


def order_of(stored: Stored, kind: str, window: int) -> Order:
    if kind == "labelled":
        return Order(stored.labelled_parts().part_sizes, BATCH, seed=5, window=window)
    source = stored.selected_parts()
    return Order(source.part_sizes, BATCH, 5, source.copies, window)


def source_of(stored: Stored, kind: str) -> EncodedImages:
    return stored.labelled_parts() if kind == "labelled" else stored.selected_parts()


def streamed(
    stored: Stored, decoders: Decoders, kind: str = "selected", window: int = 17, share: Share | None = None
) -> PartStream:
    order, source = order_of(stored, kind, window), source_of(stored, kind)
    return PartStream(source, order, share or Share(), decoders, SIZE_PX, CROP, CPU)


def resident(stored: Stored, kind: str = "selected", window: int = 17) -> ResidentStream:
    images, known = load(source_of(stored, kind), SIZE_PX, CPU, CROP)
    return ResidentStream(images, known, order_of(stored, kind, window), Share())


def same(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> bool:
    return torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


@pytest.mark.parametrize("num_workers", [0, 1, 3])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_every_image_of_a_pass_is_seen_as_often_as_its_copies(
    stored: Stored, workers: Workers, world: int, num_workers: int
) -> None:
    """Over two passes, by ranks that go their own ways; joined they are the batches of one process, in order."""
    expected, num_steps = resident(stored), -(-2 * NUM_ITEMS // BATCH)
    shares: list[list[tuple[Tensor, Tensor]]] = []
    for rank in range(world):
        with closing(streamed(stored, workers(num_workers), share=Share(rank, world))) as stream:
            shares.append([stream.batch(step) for step in range(num_steps)])
    seen: list[int] = []
    for step in range(num_steps):
        images, known = (torch.cat([steps[step][i] for steps in shares]) for i in range(2))
        assert same((images, known), expected.batch(step))
        seen += numbers_of(known)
    assert Counter(seen[:NUM_ITEMS]) == Counter(seen[NUM_ITEMS : 2 * NUM_ITEMS]) == COPIES


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("kind", ["labelled", "selected"])
def test_streaming_shows_what_resident_images_show(stored: Stored, workers: Workers, kind: str, window: int) -> None:
    expected = resident(stored, kind, window)
    with closing(streamed(stored, workers(1), kind, window)) as stream:
        assert all(same(stream.batch(step), expected.batch(step)) for step in range(12))


def test_labels_and_images_belong_together_and_the_damaged_one_is_left_out(
    stored: Stored, workers: Workers, picture: Callable[..., bytes]
) -> None:
    pictures = {
        decode_image(picture(number, number % 3)).numpy().tobytes(): number
        for number in range(NUM_LABELLED)
        if number != DAMAGED
    }
    order, source = order_of(stored, "labelled", 5), stored.labelled_parts()
    assert len(order) == NUM_LABELLED - 1
    with closing(PartStream(source, order, Share(), workers(1), 32, 1.0, CPU)) as stream:
        batches = [stream.batch(step) for step in range(11)]  # 88 = four passes
    shown = [pictures[image.numpy().tobytes()] for images, _ in batches for image in images]
    assert [label for _, labels in batches for label in labels.tolist()] == [number % 3 for number in shown]
    assert Counter(shown) == dict.fromkeys(pictures.values(), 4)


@pytest.mark.parametrize("num_workers", [0, 3])
def test_any_step_may_follow_any_other(stored: Stored, workers: Workers, num_workers: int) -> None:
    expected = resident(stored)
    with closing(streamed(stored, workers(num_workers))) as stream:
        for step in (0, 0, 1, 2, 30, 31, 7, 8, 9, 0, 3, 2, 1, 500):
            assert same(stream.batch(step), expected.batch(step))


class Counting:
    """Reads parts and counts how often each was read."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def __call__(self, artifact: Artifact, part: Part) -> bytes:
        self.counts[f"{artifact.url}/{part.path}"] += 1
        return artifact.read(part)


@pytest.mark.parametrize("num_workers", [0, 3])
def test_a_part_is_read_once_for_a_window_whatever_the_steps_and_workers(
    stored: Stored, workers: Workers, num_workers: int
) -> None:
    read, order = Counting(), order_of(stored, "selected", 17)
    source = stored.selected_parts(read)
    with closing(PartStream(source, order, Share(), workers(num_workers), SIZE_PX, CROP, CPU)) as stream:
        for step in range(-(-NUM_ITEMS // BATCH)):
            stream.batch(step)
    ahead = (STEPS_AHEAD + 1) * BATCH
    reached = order.windows(0, NUM_ITEMS + ahead + 1)
    reached += order.windows(reached[-1].stop, reached[-1].stop + 1)
    limit = Counter(part for window in reached for part in window.parts)
    for part, path in enumerate(Artifact.open(stored.predictions).manifest.parts):
        assert 1 <= read.counts[f"{stored.predictions}/{path.path}"] <= limit[part]


def test_set_of_one_window_is_read_once(stored: Stored, workers: Workers) -> None:
    read, order = Counting(), order_of(stored, "selected", 10_000)
    source = stored.selected_parts(read)
    with closing(PartStream(source, order, Share(), workers(0), SIZE_PX, CROP, CPU)) as stream:
        for step in range(3 * NUM_ITEMS // BATCH):
            stream.batch(step)
    assert set(read.counts.values()) == {1}


def test_windows_that_are_done_are_dropped(stored: Stored, workers: Workers) -> None:
    order = order_of(stored, "selected", 17)
    with closing(streamed(stored, workers(0))) as stream:
        for step in range(40):
            stream.batch(step)
            position = step * BATCH
            in_use = order.windows(position, position + BATCH)
            following = order.windows(in_use[-1].stop, in_use[-1].stop + 1)
            assert set(stream._windows._held) == {*in_use, *following}


@pytest.mark.parametrize("rank", range(4))
def test_a_rank_keeps_its_own_share_of_a_window(stored: Stored, workers: Workers, rank: int) -> None:
    order = order_of(stored, "selected", 40)
    first = order.windows(0, 1)[0]
    mine = {number for place, number in enumerate(order.items(first).tolist()) if place % BATCH // 2 == rank}
    with closing(streamed(stored, workers(0), window=40, share=Share(rank, 4))) as stream:
        stream.batch(0)
        held = stream._windows._held[first]
        assert {number for part in held.values() for number in part.numbers.tolist()} == mine


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_on_a_gpu_are_those_of_a_cpu(stored: Stored, workers: Workers) -> None:
    order, source, gpu = order_of(stored, "selected", 17), stored.selected_parts(), torch.device("cuda")
    expected = resident(stored)
    with closing(PartStream(source, order, Share(), workers(3), SIZE_PX, CROP, gpu)) as stream:
        for step in range(12):
            images, known = stream.batch(step)
            assert images.is_cuda and known.is_cuda
            assert same((images.cpu(), known.cpu()), expected.batch(step))


def test_image_that_cannot_be_decoded_any_more_is_an_error(
    stored: Stored, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(images: list[bytes], size: int, crop: float, **how: int) -> tuple[Tensor, list[str | None]]:
        return torch.zeros(len(images), 3, size, size, dtype=torch.uint8), ["truncated"] * len(images)

    monkeypatch.setattr(decoders_module, "decode_batch", decode)
    with (
        closing(streamed(stored, workers(0))) as stream,
        pytest.raises(
            CorruptArtifactError, match=rf"{stored.unlabelled}: image \d of those of part \d cannot be .*trunc"
        ),
    ):
        stream.batch(0)
    monkeypatch.setattr("noisystudent_core.data.resident.decode_batch", decode)
    with pytest.raises(CorruptArtifactError, match="image 0 of those of part 0 cannot be decoded"):
        load(stored.selected_parts(), SIZE_PX, CPU)
