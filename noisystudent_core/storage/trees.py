"""Whole folders as others keep them, benchmarks above all: known by their listing."""

import posixpath
from collections.abc import Sequence
from typing import Any

from noisystudent_core.errors import SourceError
from noisystudent_core.storage.digests import digest_of
from noisystudent_core.storage.filesystem import Folder


def files_below(url: str) -> dict[str, Any]:
    """All files below `url` by their names in it, with what the file system tells of them; not hidden ones.

    Raises `SourceError` for a folder that is missing or empty, and for files without bytes.
    """
    folder = Folder.at(url)
    folder.fs.invalidate_cache()
    if not folder.fs.isdir(folder.path):
        raise SourceError(f"{folder.url}: no such folder; give one with a folder for each class")
    listing: Any = folder.fs.find(folder.path, detail=True)
    found = {posixpath.relpath(path, folder.path): entry for path, entry in listing.items()}
    found = {name: entry for name, entry in found.items() if "/." not in f"/{name}"}
    if not found:
        raise SourceError(f"{folder.url}: no file there; give a folder with images below a folder for each class")
    if empty := [name for name, entry in found.items() if not entry["size"]]:
        raise SourceError(f"{folder.url}: {len(empty)} files have no bytes ({some(empty)}); copy them again")
    return found


def tree_digest(url: str) -> str:
    """Digest of all files below `url` by names, sizes and etags or times of change; no byte of them is read."""
    return listing_digest(files_below(url))


def listing_digest(found: dict[str, Any]) -> str:
    """Digest of files by name, as `files_below` gives them."""
    stamps = [[name, e["size"], str(e.get("ETag") or e.get("mtime") or e.get("created"))] for name, e in found.items()]
    return digest_of(sorted(stamps))


def some(names: Sequence[str], number: int = 5) -> str:
    """The first few of many names."""
    return ", ".join(names[:number]) + (", ..." if len(names) > number else "")
