"""Folders on any fsspec file system, whose files are published whole or not at all."""

import os
import posixpath
import tempfile
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from errno import EDQUOT, EFBIG, ENOSPC
from itertools import islice
from pathlib import Path

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from noisystudent_core.errors import ConfigurationError, RootError
from noisystudent_core.storage.secrets import refuse_secrets

ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
FULL = (ENOSPC, EDQUOT, EFBIG)  # disk, quota, or the limit on a process's files
NUM_READERS = 32  # files of a bucket that are read at once


@dataclass(frozen=True)
class Folder:
    """A folder of immutable files at `url`; nothing exists there until something is published."""

    fs: AbstractFileSystem
    path: str

    @classmethod
    def at(cls, url: str) -> "Folder":
        """Open the folder at `url`; raises `ConfigurationError` for an unknown protocol or secrets in the URL."""
        fs, path = open_url(url)
        return cls(fs, path.rstrip("/"))

    @property
    def url(self) -> str:
        """The folder's address; `Folder.at(folder.url)` opens it again, on any machine for remote ones."""
        return self.path if self.is_local else self.fs.unstrip_protocol(self.path)

    @property
    def is_local(self) -> bool:
        """Whether plain paths reach it."""
        return isinstance(self.fs, LocalFileSystem)

    def __truediv__(self, name: str) -> "Folder":
        return Folder(self.fs, self._full(name))

    def read(self, name: str) -> bytes:
        """The whole file; raises `FileNotFoundError`."""
        data = self.fs.cat_file(self._full(name))
        assert isinstance(data, bytes)
        return data

    def read_many(self, names: Sequence[str], num_ahead: int = NUM_READERS) -> Iterator[bytes]:
        """The files of these names, in order; from a bucket several at once, at most `num_ahead` of them in memory.

        Raises `FileNotFoundError` when it comes to one that is missing.
        """
        if self.is_local:
            yield from map(self.read, names)
            return
        waiting = iter(names)
        with ThreadPoolExecutor(min(NUM_READERS, num_ahead)) as pool:
            ahead = deque(pool.submit(self.read, name) for name in islice(waiting, num_ahead))
            try:
                while ahead:
                    yield ahead.popleft().result()
                    ahead.extend(pool.submit(self.read, name) for name in islice(waiting, 1))
            finally:
                pool.shutdown(cancel_futures=True)

    def exists(self, name: str) -> bool:
        """Whether the file is there."""
        return self.fs.isfile(self._full(name))

    def modified(self, name: str) -> float:
        """When the file was written, in seconds since 1970; raises `FileNotFoundError`."""
        return self.fs.modified(self._full(name)).timestamp()

    def sizes(self) -> dict[str, int]:
        """Name and size in bytes of each file directly inside; empty where there is no folder."""
        try:
            entries = self.fs.ls(self.path, detail=True)
        except FileNotFoundError:
            return {}
        return {posixpath.basename(e["name"]): e["size"] for e in entries if e["type"] == "file"}

    def publish(self, name: str, data: bytes) -> bool:
        """Write `name` whole unless it exists already; tells whether this call wrote it.

        Concurrent writers are safe: exactly one wins (`os.link` on disk, a conditional put on S3).
        Raises `RootError` where the folder cannot be written.
        """
        try:
            return self._write_if_absent(self._full(name), data)
        except RootError:
            raise
        except OSError as error:
            remedy = "make room there, then go on" if error.errno in FULL else "check the path and its rights"
            raise RootError(f"{self.url}: cannot be written ({_words(error)}); {remedy}") from error

    def remove(self, name: str) -> None:
        """Delete a file that is no artifact's; one that is gone already is no error."""
        with suppress(FileNotFoundError):
            self.fs.rm_file(self._full(name))

    def remove_all(self) -> None:
        """Delete the folder with all below it."""
        with suppress(FileNotFoundError):
            self.fs.rm(self.path, recursive=True)

    @contextmanager
    def local_copy(self) -> Iterator[Path]:
        """A local directory with this folder's files, for libraries that read paths only."""
        if self.is_local:
            yield Path(self.path)
            return
        with tempfile.TemporaryDirectory() as scratch:
            names = list(self.sizes())
            for name, data in zip(names, self.read_many(names), strict=True):
                (Path(scratch) / name).write_bytes(data)
            yield Path(scratch)

    def _write_if_absent(self, path: str, data: bytes) -> bool:
        if self.is_local:
            return _link_if_absent(Path(path), data)
        try:
            self.fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        return True

    def _full(self, name: str) -> str:
        return posixpath.normpath(posixpath.join(self.path, name))


def check_writable(url: str) -> None:
    """Raise `RootError` unless a file can be written under `url`; leaves a small marker, `.noisy-student`."""
    Folder.at(url).publish(".noisy-student", b"The root of noisy-student artifacts.\n")


def open_url(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of `url`, and the path on it.

    Raises `ConfigurationError` for an unknown protocol or secrets in the URL.
    """
    refuse_secrets(url)
    try:
        if url.startswith(("s3://", "s3a://")):
            fs = _s3()
            return fs, str(fs._strip_protocol(url))
        fs, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise ConfigurationError(f"{url}: {error}; file, s3 and memory are tested") from None
    return fs, str(path)


def _link_if_absent(path: Path, data: bytes) -> bool:
    """Write beside and link: readers see the whole file or none, after a crash too."""
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(beside, path)
    except FileExistsError:
        return False
    finally:
        beside.unlink(missing_ok=True)
    return True


def _s3() -> AbstractFileSystem:
    """This process's client, which remembers no listing; `ConfigurationError` for an endpoint with a password."""
    from noisystudent_core.storage.s3 import S3  # 0.6 s, for those who have a bucket

    for name in ENDPOINTS:
        try:
            refuse_secrets(os.environ.get(name, ""))
        except ConfigurationError as error:
            raise ConfigurationError(f"{name}: {error}") from None
    return S3(use_listings_cache=False)


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
