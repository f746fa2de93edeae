"""Folders on any fsspec file system, whose files are published whole or not at all."""

import os
import posixpath
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from noisystudent_core.errors import ConfigurationError, RootError


@dataclass(frozen=True)
class Folder:
    """A folder of immutable files at `url`; nothing exists there until something is published."""

    fs: AbstractFileSystem
    path: str

    @classmethod
    def at(cls, url: str) -> "Folder":
        """Open the folder at `url`; raises `ConfigurationError` for an unknown protocol or secrets in the URL."""
        refuse_secrets(url)
        try:
            fs, path = fsspec.core.url_to_fs(url, **_options(url))
        except (ValueError, ImportError) as error:
            raise ConfigurationError(f"{url}: {error}; file, s3 and memory are tested") from None
        return cls(fs, str(path).rstrip("/"))

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

    def exists(self, name: str) -> bool:
        """Whether the file is there."""
        return self.fs.exists(self._full(name))

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
            if self.is_local:
                return _link_if_absent(Path(self._full(name)), data)
            self.fs.pipe_file(self._full(name), data, mode="create")
        except OSError as error:
            if not isinstance(error, PermissionError) and self._appears(name):
                return False  # S3's refusal of a conditional put has no class of its own
            raise RootError(
                f"{self.url}: cannot be written ({_words(error)}); check the path and its rights"
            ) from error
        return True

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
            for name in self.sizes():
                (Path(scratch) / name).write_bytes(self.read(name))
            yield Path(scratch)

    def _appears(self, name: str) -> bool:
        """Whether the file is there, or is within half a second: a put is refused while another one goes on, too."""
        for _ in range(10):
            if self.exists(name):
                return True
            time.sleep(0.05)
        return False

    def _full(self, name: str) -> str:
        return posixpath.normpath(posixpath.join(self.path, name))


def check_writable(url: str) -> None:
    """Raise `RootError` unless a file can be written under `url`; leaves a small marker, `.noisy-student`."""
    folder = Folder.at(url)
    try:
        folder.publish(".noisy-student", b"The root of noisy-student artifacts.\n")
    except RootError:
        raise
    except Exception as error:  # a cloud's client has classes of its own: no credentials, no such address
        raise RootError(f"{url}: cannot be reached ({_words(error)}); check address and credentials") from error


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


def _options(url: str) -> dict[str, bool]:
    return {"use_listings_cache": False} if url.startswith("s3://") else {}


def refuse_secrets(url: str) -> None:
    """Raise `ConfigurationError` where a URL holds credentials; the message does not repeat them."""
    address = url.partition("://")[2]
    authority = address.partition("/")[0]
    port = authority.partition(":")[2] or "0"  # else the first part of a secret that holds a slash
    if "@" in authority or ("@" in address and not port.isdigit()):
        raise ConfigurationError(
            "a URL holds credentials: give them by environment or profile (AWS_ACCESS_KEY_ID, ...)"
        )


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
