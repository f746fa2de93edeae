"""The part cache: what it holds is not read again, it keeps to its limit and its own files, and finds damage."""

import errno
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noisystudent_core.config import IngestConfig
from noisystudent_core.errors import ConfigurationError, CorruptArtifactError
from noisystudent_core.storage import cache as cache_module
from noisystudent_core.storage.cache import PartCache
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import Artifact, Part, publish_manifest, publish_part

SIZE = 1000
Reads = Counter[str]


def publish(url: str, num_parts: int = 6) -> Artifact:
    folder = Folder.at(url)
    parts = [publish_part(folder, f"{i}.parquet", bytes([i]) * SIZE, 1) for i in range(num_parts)]
    publish_manifest(url, IngestConfig(), {}, tuple(parts))
    return Artifact.open(url)


@pytest.fixture
def artifact(memory_root: str) -> Artifact:
    """Six parts of 1000 bytes in no local folder; part i is all bytes i."""
    return publish(memory_root)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """How often each part was read from where it is stored."""
    counts: Reads = Counter()
    read = Artifact.read

    def count(artifact: Artifact, part: Part) -> bytes:
        counts[part.path] += 1
        return read(artifact, part)

    monkeypatch.setattr(Artifact, "read", count)
    return counts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "cache"


@pytest.fixture
def said() -> list[str]:
    return []


def take(cache: PartCache, artifact: Artifact, *numbers: int) -> None:
    for number in numbers:
        assert cache(artifact, artifact.manifest.parts[number]) == bytes([number]) * SIZE


def held(folder: Path, artifact: Artifact) -> list[int]:
    names = {f"{part.digest}.part": number for number, part in enumerate(artifact.manifest.parts)}
    return sorted(names[path.name] for path in folder.glob("*.part") if path.name in names)


def test_part_is_read_once(folder: Path, artifact: Artifact, reads: Reads, said: list[str]) -> None:
    take(PartCache(str(folder), 10**6, said.append), artifact, 0, 1, 0)
    take(PartCache(str(folder), 10**6, said.append), artifact, 1, 0, 2)
    assert reads == {"0.parquet": 1, "1.parquet": 1, "2.parquet": 1}
    assert (held(folder, artifact), said) == ([0, 1, 2], [])


def test_local_artifact_is_read_where_it_is(folder: Path, root: str, reads: Reads, said: list[str]) -> None:
    local = publish(root)
    take(PartCache(str(folder), 10**6, said.append), local, 0, 0)
    assert reads == {"0.parquet": 2}
    assert held(folder, local) == []


def test_the_longest_unused_part_makes_room(folder: Path, artifact: Artifact, reads: Reads, said: list[str]) -> None:
    cache = PartCache(str(folder), 3 * SIZE, said.append)
    take(cache, artifact, 0, 1, 2)
    take(cache, artifact, 0, 3)
    assert held(folder, artifact) == [0, 2, 3]
    take(cache, artifact, 1)
    assert held(folder, artifact) == [0, 1, 3]
    assert sum(path.stat().st_size for path in folder.glob("*.part")) <= 3 * SIZE
    assert reads["1.parquet"] == 2


def test_part_larger_than_the_limit_is_not_kept(
    folder: Path, artifact: Artifact, reads: Reads, said: list[str]
) -> None:
    take(PartCache(str(folder), SIZE - 1, said.append), artifact, 0, 0)
    assert (held(folder, artifact), reads["0.parquet"], said) == ([], 2, [])


def test_files_of_others_are_left_alone(folder: Path, artifact: Artifact, said: list[str]) -> None:
    folder.mkdir(parents=True)
    others = [folder / name for name in ("notes.txt", "data.part", ".hidden.tmp", "a" * 32)]
    for path in others:
        path.write_bytes(bytes(5 * SIZE))
    take(PartCache(str(folder), SIZE, said.append), artifact, 0, 1, 2)
    assert held(folder, artifact) == [2]
    assert all(path.stat().st_size == 5 * SIZE for path in others)


def test_what_a_dead_writer_left_is_cleared_away(folder: Path, artifact: Artifact, said: list[str]) -> None:
    folder.mkdir(parents=True)
    (folder / f".{'b' * 32}.tmp").write_bytes(bytes(SIZE // 2))
    take(PartCache(str(folder), 10**6, said.append), artifact, 0)
    assert not list(folder.glob(".*.tmp"))


@pytest.mark.parametrize("damage", [b"", b"x" * SIZE, bytes(SIZE // 2)])
def test_damaged_file_is_read_again(
    folder: Path, artifact: Artifact, reads: Reads, said: list[str], damage: bytes
) -> None:
    cache = PartCache(str(folder), 2 * SIZE, said.append)
    take(cache, artifact, 1, 0)
    next(path for path in folder.glob("*.part") if path.read_bytes()[0] == 1).write_bytes(damage)
    take(cache, artifact, 1, 1, 0)
    assert (reads["1.parquet"], reads["0.parquet"], said) == (2, 1, [])


def test_damage_in_the_bucket_is_an_error_and_not_kept(folder: Path, artifact: Artifact, said: list[str]) -> None:
    artifact.folder.fs.pipe_file(f"{artifact.folder.path}/0.parquet", b"y" * SIZE)
    cache = PartCache(str(folder), 10**6, said.append)
    with pytest.raises(CorruptArtifactError, match=r"part 0\.parquet has digest"):
        cache(artifact, artifact.manifest.parts[0])
    assert held(folder, artifact) == []


@pytest.mark.parametrize("where", ["a file", "below a file"])
def test_folder_that_cannot_be_written_is_an_error(tmp_path: Path, said: list[str], where: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    folder = tmp_path / "file" / ("cache" if where == "below a file" else "")
    with pytest.raises(ConfigurationError, match=rf"execution\.cache_dir={folder}: cannot be written \(.*or null"):
        PartCache(str(folder), 10**6, said.append)


def test_full_disk_is_said_once_and_parts_are_read_from_the_bucket(
    folder: Path, artifact: Artifact, reads: Reads, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def fill(path: Path, data: bytes) -> int:
        write(path, data[: SIZE // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    cache = PartCache(str(folder), 10**6, said.append)
    take(cache, artifact, 0)
    monkeypatch.setattr(Path, "write_bytes", fill)
    take(cache, artifact, 1, 2, 1, 0)
    assert reads == {"0.parquet": 1, "1.parquet": 2, "2.parquet": 1}
    assert said == [f"execution.cache_dir={folder} takes no more parts (No space left on device): reading the bucket"]
    assert [path.name for path in folder.iterdir() if path.suffix != ".lock"] == [
        f"{artifact.manifest.parts[0].digest}.part"
    ]


def test_folder_that_is_taken_away_is_said_once(
    folder: Path, artifact: Artifact, reads: Reads, said: list[str]
) -> None:
    cache = PartCache(str(folder), 10**6, said.append)
    take(cache, artifact, 0)
    folder.rename(folder.parent / "elsewhere")
    take(cache, artifact, 0, 1)
    assert reads == {"0.parquet": 2, "1.parquet": 1}
    assert len(said) == 1 and "takes no more parts (No such file or directory)" in said[0]


class Slow(Artifact):
    """Takes its time over a part, and notes in a local file that it was read."""

    notes: Path

    def read(self, part: Part) -> bytes:
        with self.notes.open("a") as file:
            file.write(part.path + "\n")
        time.sleep(0.05)
        return super().read(part)


def take_all(folder: Path, url: str, notes: Path, offset: int) -> None:
    cache = PartCache(str(folder), 4 * SIZE, lambda text: None)
    artifact = Slow(Folder.at(url), Artifact.open(url).manifest)
    artifact.notes = notes
    for number in range(12):
        take(cache, artifact, (number + offset) % 3)
        kept = sum(path.stat().st_size for path in folder.glob("*.part"))
        assert kept <= 4 * SIZE


def churn(folder: Path, url: str, seed: int) -> None:
    cache, artifact = PartCache(str(folder), 2 * SIZE, lambda text: None), Artifact.open(url)
    for number in range(60):
        take(cache, artifact, (number * (seed + 1) + seed) % 6)


def started(target: Callable[..., None], *arguments: Any) -> list[Any]:
    """Four processes of their own, not forked off this one with all that other tests left in it."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=target, args=(*arguments, number)) for number in range(4)]
    for process in processes:
        process.start()
    return processes


def test_of_processes_that_want_a_part_at_once_one_fetches_it(folder: Path, s3_root: str, tmp_path: Path) -> None:
    publish(s3_root)
    notes = tmp_path / "notes"
    processes = started(take_all, folder, s3_root, notes)
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert sorted(notes.read_text().split()) == ["0.parquet", "1.parquet", "2.parquet"]


def test_processes_that_drop_each_other_s_parts_all_get_theirs(folder: Path, s3_root: str) -> None:
    publish(s3_root)
    processes = started(churn, folder, s3_root)
    while any(process.is_alive() for process in processes):
        with cache_module.PartCache(str(folder), 0, lambda text: None)._locked("room"):
            assert len(list(folder.glob("*.part"))) <= 2
    assert [process.exitcode for process in processes] == [0] * 4
