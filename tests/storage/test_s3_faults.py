"""A bucket that refuses for a while, cuts answers off or forgets them costs time and nothing else."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow.parquet as pq
import pytest

from noisystudent_core.config import IngestConfig
from noisystudent_core.data.ingest import ingest_file
from noisystudent_core.errors import AccessError, RootError, SourceError, UnavailableError
from noisystudent_core.storage import s3
from noisystudent_core.storage.failures import Failures
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.retries import ATTEMPTS
from noisystudent_core.storage.sources import list_source
from tests.storage.faulty_s3 import FaultyS3

DATA = bytes(range(256)) * 200
ON_READING = ["500", "503", "reset", "cut", "short"]
ON_WRITING = ["500", "503", "reset", "409", "lost"]


@pytest.fixture
def folder(s3_root: str, faulty_s3: FaultyS3) -> Folder:
    """A folder with one file, `part`; nothing has failed yet."""
    folder = Folder.at(s3_root)
    folder.publish("part", DATA)
    return folder


@pytest.mark.parametrize("fault", ON_READING)
def test_a_file_is_read_whole(folder: Folder, faulty_s3: FaultyS3, fault: str) -> None:
    faulty_s3.next_faults(fault, fault)
    assert folder.read("part") == DATA
    assert faulty_s3.faults == {fault: 2}


@pytest.mark.parametrize("fault", ON_READING)
def test_a_large_file_is_read_whole(
    folder: Folder, faulty_s3: FaultyS3, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "BLOCK", 5000)
    monkeypatch.setattr(s3, "NUM_AT_ONCE", 4)
    faulty_s3.next_faults("ok", "ok", "ok", fault, "ok", fault)
    assert folder.read("part") == DATA
    assert faulty_s3.faults == {fault: 2}


@pytest.mark.parametrize("fault", ON_READING)
def test_a_place_in_a_file_is_read_whole(folder: Folder, faulty_s3: FaultyS3, fault: str) -> None:
    with folder.fs.open(f"{folder.path}/part", block_size=5000) as file:
        faulty_s3.next_faults(fault, "ok", fault)
        file.seek(3)
        assert file.read(100) == DATA[3:103]
        file.seek(30_000)
        assert file.read() == DATA[30_000:]
    assert faulty_s3.faults == {fault: 2}


@pytest.mark.parametrize("fault", ["500", "503", "reset", "cut"])
def test_a_listing_is_whole(folder: Folder, faulty_s3: FaultyS3, fault: str) -> None:
    faulty_s3.next_faults(fault, fault)
    assert folder.sizes() == {"part": len(DATA)}
    assert folder.exists("part") and not folder.exists("other")
    assert faulty_s3.faults == {fault: 2}


@pytest.mark.parametrize("fault", ON_WRITING)
def test_a_file_is_written_once(folder: Folder, faulty_s3: FaultyS3, fault: str) -> None:
    faulty_s3.next_faults(fault)
    assert folder.publish("other", b"first") is True  # also where the answer that said so was lost
    faulty_s3.next_faults(fault)
    assert folder.publish("other", b"second") is False
    assert folder.publish("other", b"first") is False  # the same bytes are not the same writer
    assert folder.read("other") == b"first"
    assert faulty_s3.faults == {fault: 2}


@pytest.mark.parametrize("fault", ["503", "lost"])
def test_a_large_file_is_written_once(folder: Folder, faulty_s3: FaultyS3, fault: str) -> None:
    path, block = f"{folder.path}/large", 5 * 2**20
    data = DATA * (2 * block // len(DATA) + 1)
    for num_spared in range(5):  # begin, three blocks, end
        folder.remove("large")
        faulty_s3.next_faults(*["ok"] * num_spared, fault)
        folder.fs.pipe_file(path, data, chunksize=block, mode="create")
        assert folder.sizes()["large"] == len(data)
    assert faulty_s3.faults == {fault: 5}
    with pytest.raises(FileExistsError):
        folder.fs.pipe_file(path, data, chunksize=block, mode="create")


def test_deleting_goes_on(folder: Folder, faulty_s3: FaultyS3) -> None:
    folder.publish("other", b"")
    faulty_s3.next_faults("lost", "503")
    folder.remove("other")
    faulty_s3.next_faults("503", "503")
    folder.remove_all()
    assert folder.sizes() == {}
    assert faulty_s3.faults == {"lost": 1, "503": 3}


def test_a_lost_answer_is_one_failure_noted(s3_root: str, faulty_s3: FaultyS3) -> None:
    failures = Failures(Folder.at(s3_root))
    faulty_s3.next_faults("lost", "ok", "lost")
    assert [failures.add("part", "it is bad") for _ in range(3)] == [1, 2, 3]
    assert faulty_s3.faults == {"lost": 2}


def test_of_racing_writers_one_wins_through_all_faults(s3_root: str, faulty_s3: FaultyS3) -> None:
    faulty_s3.rates = dict.fromkeys(ON_WRITING, 0.1)
    folder = Folder.at(s3_root)
    for part in range(10):
        with ThreadPoolExecutor(4) as pool:
            won = list(pool.map(lambda writer, part=part: folder.publish(f"{part}", bytes([writer])), range(4)))
        assert sum(won) == 1
        assert folder.read(f"{part}") == bytes([won.index(True)])
    assert set(faulty_s3.faults) == set(ON_WRITING)


def test_a_source_is_listed_and_read_whole(
    s3_root: str, faulty_s3: FaultyS3, picture: Callable[..., bytes], write_source: Callable[..., str]
) -> None:
    images = [picture(number, size_px=64) for number in range(40)]
    for name in ("a", "sub/b"):
        write_source(f"{s3_root}/{name}.parquet", images, row_group_size=10)
    faulty_s3.rates = dict.fromkeys(ON_READING, 0.1)
    for pattern, names in {"": ["a", "sub/b"], "/*.parquet": ["a"], "/*/b*": ["b"], "/**/*": ["a", "sub/b"]}.items():
        files = list_source(f"{s3_root}{pattern}")
        assert [file.name for file in files] == [f"{name}.parquet" for name in names]
        for file in files:
            tables = list(ingest_file(file, IngestConfig(images_per_part=16)))
            assert [image for table in tables for image in table["image"].to_pylist()] == images
            with file.fs.open(file.path, block_size=10_000) as stream:
                assert pq.ParquetFile(stream).read()["image"].combine_chunks().field("bytes").to_pylist() == images
    assert sum(faulty_s3.faults.values()) >= 10


def test_many_files_are_read_at_once_and_come_in_order(folder: Folder, faulty_s3: FaultyS3) -> None:
    names = [f"{number}" for number in range(40)]
    for name in names:
        folder.publish(name, name.encode())
    faulty_s3.rates, faulty_s3.delay_s = dict.fromkeys(ON_READING, 0.05), 0.05
    assert [data.decode() for data in folder.read_many(names)] == names
    assert sum(faulty_s3.faults.values()) >= 3
    assert faulty_s3.most_at_once >= 8


def test_no_more_files_are_read_ahead_than_wanted(folder: Folder, faulty_s3: FaultyS3) -> None:
    faulty_s3.forget()
    files = folder.read_many(["part"] * 20, num_ahead=3)
    assert next(files) == DATA
    files.close()  # type: ignore[attr-defined]
    assert faulty_s3.requests["all"] <= 4 and faulty_s3.most_at_once <= 3


@pytest.mark.parametrize("fault", ["500", "503", "reset", "cut", "short"])
def test_what_does_not_pass_is_told_after_as_many_attempts(folder: Folder, faulty_s3: FaultyS3, fault: str) -> None:
    faulty_s3.next_faults(*[fault] * 2 * ATTEMPTS)
    with pytest.raises(UnavailableError, match=f"{folder.url}/part: {ATTEMPTS} attempts failed, .* try again later"):
        folder.read("part")
    assert sum(faulty_s3.faults.values()) >= ATTEMPTS
    assert UnavailableError.retryable


def test_a_source_that_does_not_answer_is_not_damaged(
    s3_root: str, faulty_s3: FaultyS3, picture: Callable[..., bytes], write_source: Callable[..., str]
) -> None:
    write_source(f"{s3_root}/a.parquet", [picture(1)])
    (file,) = list_source(s3_root)
    for fault in ("503", "cut"):  # all requests; what is read alone
        faulty_s3.rates = {fault: 1.0}
        for ask in (lambda: list_source(s3_root), lambda: list(ingest_file(file, IngestConfig()))):
            with pytest.raises(UnavailableError, match=rf"{s3_root}.*: {ATTEMPTS} attempts failed, the last one: "):
                ask()


def test_refusals_are_final(
    s3_root: str, faulty_s3: FaultyS3, picture: Callable[..., bytes], write_source: Callable[..., str]
) -> None:
    folder, url = Folder.at(s3_root), write_source(f"{s3_root}/a.parquet", [picture(1)])
    (file,) = list_source(url)
    faulty_s3.rates = {"403": 1.0}
    asked: dict[Callable[[], Any], type[Exception]] = {
        lambda: folder.read("part"): AccessError,
        lambda: folder.exists("part"): AccessError,
        lambda: folder.sizes(): AccessError,
        lambda: folder.publish("part", b""): AccessError,
        lambda: list(folder.read_many(["part"])): AccessError,
        lambda: list_source(url): SourceError,
        lambda: list_source(s3_root): SourceError,
        lambda: list_source(f"{s3_root}/*/*.parquet"): SourceError,
        lambda: list(ingest_file(file, IngestConfig())): AccessError,
    }
    for ask, error in asked.items():
        before = faulty_s3.requests["all"]
        with pytest.raises(error, match=rf"{s3_root}.*: refused .*check credentials and their rights") as caught:
            ask()
        assert faulty_s3.requests["all"] == before + 1
        assert isinstance(caught.value, SourceError | RootError) and not caught.value.retryable


def test_few_requests_are_made(folder: Folder, faulty_s3: FaultyS3) -> None:
    asked: Mapping[str, tuple[Callable[[], Any], int]] = {
        "read": (lambda: folder.read("part"), 1),
        "exists": (lambda: folder.exists("part"), 1),
        "is not there": (lambda: folder.exists("other"), 1),
        "publish": (lambda: folder.publish("other", DATA), 1),
        "was there": (lambda: folder.publish("other", DATA), 2),
        "sizes": (folder.sizes, 1),
        "sizes of none": ((folder / "nothing").sizes, 1),
        "nothing to remove": ((folder / "nothing").remove_all, 1),
        "remove all": (folder.remove_all, 2),
    }
    for name, (ask, most) in asked.items():
        before = faulty_s3.requests["all"]
        ask()
        assert (name, faulty_s3.requests["all"] - before) == (name, most)


def test_a_source_that_refuses_when_it_is_read_is_not_damaged(
    s3_root: str, faulty_s3: FaultyS3, picture: Callable[..., bytes], write_source: Callable[..., str]
) -> None:
    (file,) = list_source(write_source(f"{s3_root}/a.parquet", [picture(1)]))
    faulty_s3.next_faults("ok", "403")
    with pytest.raises(AccessError, match=rf"{s3_root}/a\.parquet: refused .*AccessDenied"):
        list(ingest_file(file, IngestConfig()))
