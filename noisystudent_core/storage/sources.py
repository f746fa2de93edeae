"""Sources of images as their owner keeps them: files on any fsspec file system, known by their listing."""

import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from noisystudent_core.errors import AccessError, SourceError
from noisystudent_core.storage.digests import digest_of
from noisystudent_core.storage.filesystem import open_url
from noisystudent_core.storage.listing import (
    TORCHVISION,
    Entry,
    addresses,
    as_folder,
    entries_of,
    stamp_of,
    torchvision_name,
)

WHAT = (
    "no *.parquet file there, nor *.tar, *-ubyte, *.csv or images; of tables `image` and, where known, `label` columns "
    "are read"
)


@dataclass(frozen=True)
class SourceFile:
    """One file of a source, or one folder of images; `stamp` is its etag or time, `name` its path below the source."""

    fs: AbstractFileSystem
    path: str
    name: str
    num_bytes: int
    stamp: str
    kind: str = "parquet"  # of `listing.KINDS`, or "folder" of images, "part" of an artifact, "torchvision"
    tree: str | None = None  # of a folder of images, where several sources are named: its source, which has the classes

    @property
    def digest(self) -> str:
        """Identity by listing: name, size and stamp, and of several trees the place in its own; no byte is read."""
        place = [] if self.tree is None else [posixpath.relpath(self.path, self.tree)]
        return digest_of([self.name, self.num_bytes, self.stamp, *place])


def list_source(url: str) -> list[SourceFile]:
    """The files at `url` (a file, a folder, a glob, with braces, or several of them, one a line), in name order.

    Images in folders come folder by folder, a torchvision set (`torchvision:NAME?root=FOLDER&split=train`) whole.
    Raises `SourceError` where nothing is there or a file has no bytes, `ConfigurationError` for an unknown protocol.
    """
    files: dict[str, SourceFile] = {}
    found: list[tuple[AbstractFileSystem, list[Entry], str | None]] = []
    for address in addresses(url):
        if address.startswith(TORCHVISION):
            folder = as_folder(address)
            if folder is None:
                name = "/".join(torchvision_name(address))  # its identity: the files are checked by torchvision
                files[address] = SourceFile(LocalFileSystem(), address, name, 0, "", "torchvision")
                continue
            address = folder
        fs, path = _opened(address)
        with _naming(address):
            entries, is_folder = _entries(fs, path, address)
        if not any(entry["size"] for entry in entries if entry["kind"] == "folder") and all(
            entry["kind"] == "folder" for entry in entries
        ):
            raise SourceError(f"{address}: {WHAT}")
        found.append((fs, entries, path if is_folder else None))
    for fs, entries, own in found:
        alone = own is not None and len(found) == 1
        base, tree = (own, None) if alone else (_base(found), own)
        files |= {entry["name"]: _file(fs, entry, base, url, tree) for entry in entries}
    if not files:
        raise SourceError(f"{url}: names no source; give a file, a folder, or a glob")
    return sorted(files.values(), key=lambda file: "" if file.kind == "part" else file.path)  # parts keep their order


def source_digest(url: str) -> str:
    """Digest of the listing of a whole source."""
    return digest_of([file.digest for file in list_source(url)])


def file_digest(url: str) -> str:
    """Digest of the listing of one file of any kind; raises `SourceError` where it is missing or empty."""
    fs, path = _opened(url)
    with _naming(url):
        if not fs.isfile(path):
            raise SourceError(f"{url}: no such file; give the path of one")
        return _file(fs, fs.info(path), posixpath.dirname(path), url).digest


def _opened(url: str) -> tuple[AbstractFileSystem, str]:
    fs, path = open_url(url)
    fs.invalidate_cache()
    return fs, path


@contextmanager
def _naming(url: str) -> Iterator[None]:
    """Say which source cannot be listed, but for a bucket that may answer later."""
    try:
        yield
    except (FileNotFoundError, PermissionError, AccessError) as error:
        raise SourceError(f"{url}: cannot be listed ({error})") from None


def _entries(fs: AbstractFileSystem, path: str, url: str) -> tuple[list[Entry], bool]:
    entries, is_folder = entries_of(fs, path)
    if not entries and is_folder and not fs.exists(path):
        raise SourceError(f"{url}: does not exist; give a folder, a file or a glob")
    return entries, is_folder


def _base(found: list[tuple[AbstractFileSystem, list[Entry], str | None]]) -> str | None:
    """The folder that all files of a source lie below; None where they lie on several file systems."""
    if len({type(fs) for fs, _, _ in found}) > 1:
        return None
    return posixpath.commonpath([posixpath.dirname(entry["name"]) for _, entries, _ in found for entry in entries])


def _file(fs: AbstractFileSystem, entry: Entry, base: str | None, url: str, tree: str | None = None) -> SourceFile:
    kind, is_folder = entry.get("kind", "parquet"), entry.get("kind") == "folder"
    if not entry["size"] and not is_folder:
        raise SourceError(f"{url}: {entry['name']} has no bytes; remove it or copy it again")
    path = entry["name"]
    name = fs.unstrip_protocol(path) if base is None else posixpath.relpath(path, base)
    return SourceFile(
        fs, path, name + "/" * is_folder, entry["size"], stamp_of(entry), kind, tree if is_folder else None
    )
