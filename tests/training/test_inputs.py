"""The streams of a fit: resident or streamed as set, the same fit either way, and a bucket read once."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from werkzeug.serving import WSGIRequestHandler

from noisystudent_core import stages
from noisystudent_core.config import ExecutionConfig, FitConfig, InputNoise, PseudoLabelConfig
from noisystudent_core.data import resident
from noisystudent_core.data.loader import PartStream
from noisystudent_core.data.streams import ResidentStream, Share
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.events import silent
from noisystudent_core.storage.manifest import Manifest
from noisystudent_core.training.inputs import Streams, open_streams
from tests.data.stored import COPIES, NUM_LABELLED, Stored, store
from tests.training.small import fit_config

CPU = torch.device("cpu")
NOISE = InputNoise(dialect="torchvision", num_ops=1, magnitude=10, crop="translate", crop_padding_px=2, flip=True)
Picture = Callable[..., bytes]
WriteSource = Callable[..., str]


def student(**execution: Any) -> FitConfig:
    """Three steps to a pass over the labelled images, less than six over the others, each of several windows."""
    config = fit_config(
        noise=NOISE, pseudo_labels=PseudoLabelConfig(unlabelled_ratio=1.5), batch_size=8, steps=15, shuffle_window=9
    )
    return config.model_copy(update={"execution": ExecutionConfig(num_workers=0, **execution)})


def inputs_of(stored: Stored) -> dict[str, str]:
    return {
        "labelled": stored.labelled,
        "validation": stored.labelled,
        "images": stored.unlabelled,
        "selection": stored.selection,
        "predictions": stored.predictions,
    }


@pytest.fixture
def stored(memory_root: str, picture: Picture, write_source: WriteSource) -> Stored:
    return store(memory_root, picture, write_source)


def modes(streams: Streams) -> list[type]:
    return [type(streams.labelled), type(streams.unlabelled)]


@pytest.mark.parametrize(
    ("data", "free", "expected"),
    [
        ("resident", 10**9, [ResidentStream] * 2),
        ("streaming", 10**9, [PartStream] * 2),
        ("auto", 10**9, [ResidentStream] * 2),
        ("auto", 10**3, [PartStream] * 2),
        ("auto", 2 * 22 * 3 * 32 * 32, [ResidentStream, PartStream]),  # the 23 unlabelled images are too many
    ],
)
def test_images_are_resident_where_they_fit(
    stored: Stored, monkeypatch: pytest.MonkeyPatch, data: str, free: int, expected: list[type]
) -> None:
    monkeypatch.setattr(resident, "_free_memory", lambda device: free)
    told: list[str] = []
    with open_streams(
        student(data=data), inputs_of(stored), Share(), CPU, lambda event, **f: told.append(f["text"])
    ) as s:
        assert modes(s) == expected
        assert s.num_labelled == NUM_LABELLED - 1
    assert len(COPIES) == 23
    assert len(told) == expected.count(PartStream) and all("are streamed" in text for text in told)


def test_resident_images_that_do_not_fit_are_an_error(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "_free_memory", lambda device: 1000)
    with (
        pytest.raises(ConfigurationError, match=r"22 images of 32 px need .* set execution\.data=streaming, or lower"),
        open_streams(student(data="resident"), inputs_of(stored), Share(), CPU),
    ):
        pass


@pytest.mark.parametrize("share", [Share(), Share(1, 2)])
def test_modes_show_the_same(stored: Stored, share: Share) -> None:
    inputs = inputs_of(stored)
    with (
        open_streams(student(data="resident"), inputs, share, CPU) as first,
        open_streams(student(data="streaming"), inputs, share, CPU) as second,
    ):
        for one, other in zip(first[:2], second[:2], strict=True):
            assert one is not None and other is not None
            for step in range(15):
                pairs = zip(one.batch(step), other.batch(step), strict=True)
                assert all(torch.equal(a, b) for a, b in pairs)


def fitted(stored: Stored, root: Path, events: Any = silent, **execution: Any) -> Manifest:
    return stages.fit(student(**execution), inputs_of(stored), str(root), events)


def test_a_fit_gives_the_same_bytes_in_either_mode(stored: Stored, tmp_path: Path) -> None:
    first = fitted(stored, tmp_path / "resident", data="resident")
    second = fitted(stored, tmp_path / "streaming", data="streaming", cache_dir=str(tmp_path / "cache"))
    assert first.content_digest == second.content_digest
    assert first.facts == second.facts
    assert list((tmp_path / "cache").glob("*.part"))


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the S3 server is asked, as it sees it: method and path."""
    seen: list[str] = []
    serve = WSGIRequestHandler.run_wsgi

    def note(handler: WSGIRequestHandler) -> None:
        seen.append(f"{handler.command} {handler.path}")
        serve(handler)

    monkeypatch.setattr(WSGIRequestHandler, "run_wsgi", note)
    yield seen


@pytest.mark.parametrize("is_cached", [True, False])
def test_second_epoch_reads_no_object_of_the_bucket(
    s3_root: str, picture: Picture, write_source: WriteSource, tmp_path: Path, requests: list[str], is_cached: bool
) -> None:
    """Both kinds of images; without the cache they are read again, so that the count is known to count."""
    stored = store(s3_root, picture, write_source)
    after: dict[int, int] = {}

    def count(event: str, **fields: Any) -> None:
        if event == "metrics":
            after[fields["step"]] = len(requests)

    cache_dir = str(tmp_path / "cache") if is_cached else None
    fitted(stored, tmp_path / "root", count, data="streaming", cache_dir=cache_dir)
    first_pass = 6  # steps
    assert 8 * first_pass >= NUM_LABELLED and sum(COPIES.values()) <= 12 * first_pass
    read = [request for request in requests[after[first_pass] : after[15]] if request.startswith("GET")]
    parts = {request.split("?")[0] for request in read}
    if is_cached:
        assert parts == set()
    else:
        assert {path.split("/")[-2] for path in parts} >= {"predictions"}
        assert len(parts) > 8
