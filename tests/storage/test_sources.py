"""A source is known by its listing, and one that is not there says so before anything is read."""

import os
from pathlib import Path

import pytest

from noisystudent_core.errors import ConfigurationError, SourceError
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.sources import list_source, source_digest


@pytest.fixture
def folder(any_root: str) -> str:
    """A source of two Parquet files and one that is none."""
    for name, data in {"b.parquet": b"bb", "sub/a.parquet": b"a", "README.md": b"words"}.items():
        Folder.at(any_root).publish(name, data)
    return Folder.at(any_root).url


def names(url: str) -> list[str]:
    return [file.name for file in list_source(url)]


def test_folder_gives_its_parquet_files_in_order(folder: str) -> None:
    files = list_source(folder)
    assert [(file.name, file.num_bytes) for file in files] == [("b.parquet", 2), ("sub/a.parquet", 1)]
    assert [file.fs.cat_file(file.path) for file in files] == [b"bb", b"a"]


def test_trailing_slash_changes_nothing(folder: str) -> None:
    assert source_digest(folder + "/") == source_digest(folder)


@pytest.mark.parametrize(("pattern", "found"), [("*.parquet", ["b.parquet"]), ("**/a.parquet", ["a.parquet"])])
def test_glob_gives_what_it_matches(folder: str, pattern: str, found: list[str]) -> None:
    assert names(f"{folder}/{pattern}") == found


def test_glob_matches_files_only(folder: str) -> None:
    Folder.at(folder).publish("b2/c.parquet", b"c")
    assert names(f"{folder}/b*") == ["b.parquet"]


def test_links_count_as_files(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"data")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.parquet").symlink_to(tmp_path / "data")
    assert [list_source(str(tmp_path / path))[0].num_bytes for path in ("source", "source/*", "source/a.parquet")] == [
        4
    ] * 3


def test_single_file_is_named_by_itself(folder: str) -> None:
    assert names(f"{folder}/sub/a.parquet") == ["a.parquet"]


def test_digest_is_of_the_listing(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    file.write_bytes(b"data")
    os.utime(file, (1, 1))
    before = source_digest(str(file))
    file.write_bytes(b"atad")
    os.utime(file, (1, 1))
    assert source_digest(str(file)) == before  # no byte is read
    os.utime(file, (2, 2))
    assert source_digest(str(file)) != before


def test_digest_changes_with_the_bytes_in_a_bucket(s3_root: str) -> None:
    folder = Folder.at(s3_root)
    digests = []
    for data in (b"data", b"atad", b"data"):
        folder.fs.pipe_file(f"{folder.path}/a.parquet", data)
        digests.append(source_digest(s3_root))
    assert digests[0] == digests[2] != digests[1]


def test_new_file_is_seen_at_once(folder: str) -> None:
    before = source_digest(folder)
    Folder.at(folder).publish("c.parquet", b"c")
    assert source_digest(folder) != before
    assert names(folder) == ["b.parquet", "c.parquet", "sub/a.parquet"]


def test_what_is_missing_is_named(any_root: str) -> None:
    with pytest.raises(SourceError, match=f"{any_root}/nothing: does not exist; give a folder, a file or a glob"):
        list_source(f"{any_root}/nothing")
    with pytest.raises(SourceError, match=r"no .*parquet file there"):
        list_source(f"{any_root}/*.parquet")


def test_folder_without_parquet_is_refused(root: str) -> None:
    Folder.at(root).publish("words.txt", b"data")
    with pytest.raises(SourceError, match=f"{root}: no \\*.parquet file there, .*`image` and, where known, `label`"):
        list_source(root)


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no .*parquet file there"):
        list_source(str(tmp_path))


def test_file_without_bytes_is_named(folder: str) -> None:
    Folder.at(folder).publish("sub/empty.parquet", b"")
    with pytest.raises(SourceError, match=r"sub/empty\.parquet has no bytes; remove it or copy it again"):
        list_source(folder)


def test_unknown_protocol_and_credentials_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="file, s3 and memory are tested"):
        list_source("s4://bucket/a.parquet")
    with pytest.raises(ConfigurationError, match="environment or profile") as caught:
        list_source("s3://AKIA:hush@bucket/a.parquet")
    assert "hush" not in str(caught.value)
