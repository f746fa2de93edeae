"""A file is published whole or not at all, once, whoever else is writing; what cannot be written says where."""

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from noisystudent_core.errors import ConfigurationError, RootError
from noisystudent_core.storage.filesystem import Folder, check_writable

NUM_WRITERS = 8


@pytest.fixture
def read_only_folder() -> Iterator[Path]:
    """A folder that this process may enter but not write; a superuser lays the privilege down for the test."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "finished").write_bytes(b"data")
        Path(folder).chmod(0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        yield Path(folder)
        os.seteuid(user)


def test_first_publish_stands(any_root: str) -> None:
    folder = Folder.at(any_root)
    assert folder.publish("part", b"first") is True
    assert folder.publish("part", b"second") is False
    assert folder.read("part") == b"first"


def test_nothing_but_the_file_is_left(any_root: str) -> None:
    folder = Folder.at(any_root)
    folder.publish("part", b"12345")
    folder.publish("part", b"")
    assert folder.sizes() == {"part": 5}


def test_folder_opens_again_by_its_url(any_root: str) -> None:
    folder = Folder.at(any_root) / "images" / "key"
    folder.publish("part", b"data")
    assert Folder.at(folder.url).read("part") == b"data"
    assert Folder.at(Folder.at(folder.url).url).url == folder.url


def test_path_may_lead_beside_the_folder(any_root: str) -> None:
    folder = Folder.at(any_root)
    (folder / "images" / "key").publish("../shared/part", b"data")
    assert (folder / "images" / "shared").sizes() == {"part": 4}


def test_what_is_not_there_is_said_so(any_root: str) -> None:
    folder = Folder.at(any_root)
    assert not folder.exists("part") and folder.sizes() == {}
    with pytest.raises(FileNotFoundError):
        folder.read("part")


def test_many_files_come_in_order_until_one_is_missing(any_root: str) -> None:
    folder = Folder.at(any_root)
    for name in "abc":
        folder.publish(name, name.encode())
    assert list(folder.read_many("cabbac")) == [b"c", b"a", b"b", b"b", b"a", b"c"]
    assert list(folder.read_many([])) == []
    files = folder.read_many("abxc")
    assert [next(files), next(files)] == [b"a", b"b"]
    with pytest.raises(FileNotFoundError):
        next(files)


def test_removing_a_folder_spares_its_neighbours(any_root: str) -> None:
    folder = Folder.at(any_root)
    for name in ("state/a", "state/b/c", "state2", "other/a"):
        folder.publish(name, b"data")
    (folder / "state").remove_all()
    (folder / "nothing").remove_all()
    found = [name for name in ("state/a", "state/b/c", "state2", "other/a") if folder.exists(name)]
    assert found == ["state2", "other/a"]


def test_local_copy_holds_the_files(any_root: str) -> None:
    folder = Folder.at(any_root)
    folder.publish("config.json", b"{}")
    with folder.local_copy() as copy:
        assert (copy / "config.json").read_bytes() == b"{}"
    assert copy.exists() is folder.is_local


@pytest.mark.parametrize("kind", ["root", "s3_root"])
def test_of_racing_threads_one_wins(kind: str, request: pytest.FixtureRequest) -> None:
    folder, start = Folder.at(request.getfixturevalue(kind)), Barrier(NUM_WRITERS)

    def write(number: int) -> bool:
        start.wait()
        return folder.publish("part", bytes([number]) * 100_000)

    with ThreadPoolExecutor(NUM_WRITERS) as pool:
        won = list(pool.map(write, range(NUM_WRITERS)))
    assert sum(won) == 1
    assert folder.read("part") == bytes([won.index(True)]) * 100_000
    assert list(folder.sizes()) == ["part"]


RACE = """
import sys
from noisystudent_core.storage.filesystem import Folder
folder = Folder.at(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(*(int(folder.publish(f"part-{n}", sys.argv[2].encode() * 1000)) for n in range(50)), flush=True)
"""


def test_of_racing_processes_one_wins(root: str) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", RACE, root, name], stdin=-1, stdout=-1, text=True) for name in "ab"
    ]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    won = [writer.communicate()[0].split() for writer in writers]
    parts = [Folder.at(root).read(f"part-{n}")[:1] for n in range(50)]
    assert parts == [b"a" if a == "1" else b"b" for a in won[0]]
    assert all(int(a) + int(b) == 1 for a, b in zip(*won, strict=True))


KILLED = """
import os, sys
from noisystudent_core.storage.filesystem import Folder
os.fsync = lambda file: os._exit(9)
Folder.at(sys.argv[1]).publish("part", b"half")
"""


def test_writer_that_is_killed_publishes_nothing(root: str) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, root]).returncode == 9
    assert not Folder.at(root).exists("part")
    assert Folder.at(root).publish("part", b"whole") is True


def test_writer_that_fails_leaves_nothing(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    words = "No space left on device.*; make room there, then go on"
    with monkeypatch.context() as patch, pytest.raises(RootError, match=words):
        patch.setattr(os, "fsync", fail)
        Folder.at(root).publish("part", b"data")
    assert list(Path(root).iterdir()) == []


def test_read_only_folder_is_named(read_only_folder: Path) -> None:
    with pytest.raises(RootError, match=f"{read_only_folder}: cannot be written .*Permission denied.*check the path"):
        Folder.at(str(read_only_folder)).publish("part", b"data")
    with pytest.raises(RootError, match=str(read_only_folder)):
        check_writable(f"{read_only_folder}/root")


def test_what_is_finished_is_adopted_where_nothing_can_be_written(read_only_folder: Path) -> None:
    assert Folder.at(str(read_only_folder)).publish("finished", b"other") is False


@pytest.mark.parametrize("name", ["", "root"])
def test_root_that_is_a_file_is_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"data")
    with pytest.raises(RootError, match="cannot be written"):
        check_writable(str(file / name))
    assert file.read_bytes() == b"data"


def test_writable_root_passes_again_and_again(any_root: str) -> None:
    check_writable(any_root)
    check_writable(any_root)


@pytest.mark.parametrize(
    "url", ["s3://AKIA:hush@bucket/root", "s3://AKIA:hu/sh@bucket/root", "https://AKIA@host/x", "a::s3://AKIA:hush@b/c"]
)
def test_credentials_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError, match="by environment or profile") as caught:
        Folder.at(url)
    assert "AKIA" not in str(caught.value) and "hu" not in str(caught.value)


@pytest.mark.parametrize("url", ["memory://bucket/me@home", "memory://host:80/me@home", "/data/me@home"])
def test_at_sign_in_a_path_is_no_credential(url: str) -> None:
    assert Folder.at(url).path.endswith("me@home")


@pytest.mark.parametrize("url", ["s4://bucket/root", "ftpx://host/root"])
def test_unknown_protocol_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{url}: .*file, s3 and memory are tested"):
        Folder.at(url)
