"""Sources of images as their owner keeps them: files on any fsspec file system, known by their listing."""

import posixpath
from dataclasses import dataclass
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from noisystudent_core.errors import ConfigurationError, SourceError
from noisystudent_core.storage.digests import digest_of
from noisystudent_core.storage.filesystem import refuse_secrets

SUFFIX = ".parquet"


@dataclass(frozen=True)
class SourceFile:
    """One file of a source; `stamp` is its etag or modification time, `name` its path below the source."""

    fs: AbstractFileSystem
    path: str
    name: str
    num_bytes: int
    stamp: str

    @property
    def digest(self) -> str:
        """Identity by listing: name, size and stamp; no byte is read."""
        return digest_of([self.name, self.num_bytes, self.stamp])


def list_source(url: str) -> list[SourceFile]:
    """The Parquet files at `url` (a file, a folder, or a glob), in name order.

    Raises `SourceError` where nothing is there or a file has no bytes, `ConfigurationError` for an unknown protocol.
    """
    refuse_secrets(url)
    try:
        fs, path = url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise ConfigurationError(f"{url}: {error}; file and s3 are tested") from None
    fs.invalidate_cache()
    entries = _entries(fs, str(path), url)
    if not entries:
        raise SourceError(f"{url}: no *{SUFFIX} file there; `image` and, where known, `label` columns are read")
    base = str(path) if fs.isdir(path) else posixpath.commonpath([posixpath.dirname(e["name"]) for e in entries])
    return [_file(fs, entry, base, url) for entry in sorted(entries, key=lambda entry: entry["name"])]


def source_digest(url: str) -> str:
    """Digest of the listing of a whole source."""
    return digest_of([file.digest for file in list_source(url)])


def file_digest(url: str) -> str:
    """Digest of the listing of one file of any kind; raises `SourceError` where it is missing or empty."""
    fs, path = url_to_fs(url)
    if not fs.isfile(path):
        raise SourceError(f"{url}: no such file; give the path of one")
    return _file(fs, fs.info(path), posixpath.dirname(str(path)), url).digest


def _entries(fs: AbstractFileSystem, path: str, url: str) -> list[dict[str, Any]]:
    try:
        if "*" in path:
            matches = _details(fs.glob(path, detail=True)).values()
            return [entry for entry in matches if entry["type"] != "directory"]
        if fs.isfile(path):
            return [fs.info(path)]
        found = _details(fs.find(path, detail=True))
    except (FileNotFoundError, PermissionError) as error:
        raise SourceError(f"{url}: cannot be listed ({error})") from None
    if not found and not fs.exists(path):
        raise SourceError(f"{url}: does not exist; give a Parquet file, a folder of them, or a glob")
    return [entry for name, entry in found.items() if name.endswith(SUFFIX)]


def _details(listing: Any) -> dict[str, dict[str, Any]]:
    """fsspec types a listing with details as a plain list."""
    return listing


def _file(fs: AbstractFileSystem, entry: dict[str, Any], base: str, url: str) -> SourceFile:
    if not entry["size"]:
        raise SourceError(f"{url}: {entry['name']} has no bytes; remove it or copy it again")
    stamp = entry.get("ETag") or entry.get("mtime") or entry.get("created")
    return SourceFile(fs, entry["name"], posixpath.relpath(entry["name"], base), entry["size"], str(stamp))
