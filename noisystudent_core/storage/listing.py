"""What of a file system is a source: which files and folders are of which kind, by their names alone."""

import itertools
import json
import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from noisystudent_core.errors import ConfigurationError
from noisystudent_core.storage.digests import digest_of

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
KINDS = {  # where a folder has files of several kinds, the first of these is its source
    "parquet": (".parquet",),
    "tar": (".tar", ".tar.gz", ".tgz"),
    "idx": ("-ubyte", "-ubyte.gz"),
    "csv": (".csv",),
    "image": IMAGE_SUFFIXES,
}
TORCHVISION = "torchvision:"

Entry = dict[str, Any]  # as of fsspec, with "kind"
Listed = tuple[str, list[tuple[str, Any]]]  # a folder, and name and entry (fsspec's or `os.DirEntry`) of each file

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def kind_of(name: str) -> str | None:
    """The kind of a file, by its name's end; None where it is of no source."""
    lower = name.lower()
    return next((kind for kind, suffixes in KINDS.items() if lower.endswith(suffixes)), None)


def addresses(url: str) -> list[str]:
    """The addresses that a source's names: one a line, `{a,b}` and `{000..127}` written out; sorted, each once."""
    return sorted({one for line in url.splitlines() if line.strip() for one in _written_out(line.strip())})


def torchvision_name(address: str) -> tuple[str, str]:
    """Name and split of `torchvision:NAME?root=FOLDER&split=SPLIT`; raises `ConfigurationError` for another form."""
    name, _, query = address.removeprefix(TORCHVISION).partition("?")
    given = dict(parse_qsl(query))
    if "root" not in given or given.keys() - {"root", "split", "download"}:
        raise ConfigurationError(
            f"{address}: must read {TORCHVISION}NAME?root=FOLDER&split=train, &download=true if so"
        )
    return name, given.get("split", "train")


def as_folder(address: str) -> str | None:
    """The folder of classes that a torchvision address stands for; None where the set is no folder of images."""
    name, split = torchvision_name(address)
    root = dict(parse_qsl(address.partition("?")[2]))["root"]
    return {"ImageFolder": root, "ImageNet": posixpath.join(root, split)}.get(name)


def entries_of(fs: AbstractFileSystem, path: str) -> tuple[list[Entry], bool]:
    """Files, or folders of images, at `path` (a file, a folder or a glob), and whether it is a folder.

    A folder of images is one entry: its stamp is a digest of its own listing, so that memory does not grow with its
    files on a local disk. A finished `images` artifact gives its parts.
    """
    if "*" in path or "?" in path or "[" in path:
        matches = [entry for entry in _details(fs.glob(path, detail=True)).values() if entry["type"] != "directory"]
        return _paired(fs, [_marked(entry, kind_of(entry["name"]) or "parquet") for entry in matches]), False
    if fs.isfile(path):
        return _paired(fs, [_marked(fs.info(path), kind_of(path) or "parquet")]), False
    if (parts := _artifact_parts(fs, path)) is not None:
        return parts, True
    if isinstance(fs, LocalFileSystem):
        return _chosen(fs, partial(_walk, path), path), True
    found = _details(fs.find(path, detail=True))
    return _chosen(fs, partial(_grouped, found), path), True


def _written_out(address: str) -> list[str]:
    pieces = _BRACES.split(address)  # text, inside, text, inside, ..., text
    choices = [[piece] if place % 2 == 0 else _choices(piece) for place, piece in enumerate(pieces)]
    return ["".join(choice) for choice in itertools.product(*choices)]


def _choices(inside: str) -> list[str]:
    numbers = _RANGE.fullmatch(inside)
    if numbers is None:
        return inside.split(",")
    first, last = numbers.groups()
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]


def _artifact_parts(fs: AbstractFileSystem, path: str) -> list[Entry] | None:
    """The parts of the `images` artifact whose folder this is; None where it is none."""
    try:
        tree = json.loads(fs.cat_file(posixpath.join(path, "manifest.json")))
        if tree["kind"] != "images":
            return None
        parts = [(part["path"], part["num_bytes"], part["digest"]) for part in tree["parts"]]
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None
    full = [(posixpath.normpath(posixpath.join(path, name)), size, stamp) for name, size, stamp in parts]
    return [{"name": name, "size": size, "ETag": stamp, "kind": "part"} for name, size, stamp in full]


def _walk(path: str) -> Iterator[Listed]:
    """Each local folder with (name, how to stat it) of its files, in order; hidden ones are left out."""
    seen: set[tuple[int, int]] = set()  # a link may lead back up
    for folder, subfolders, _ in os.walk(path, followlinks=True):
        status = Path(folder).stat()
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        if (status.st_dev, status.st_ino) in seen:
            subfolders[:] = []
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as found:
            files = sorted((entry.name, entry) for entry in found if entry.is_file())
        if files or not subfolders:
            yield folder, files


def _grouped(found: dict[str, Entry]) -> Iterator[Listed]:
    folders: dict[str, list[tuple[str, Any]]] = defaultdict(list)
    for name in sorted(found):
        folders[posixpath.dirname(name)].append((posixpath.basename(name), found[name]))
    yield from folders.items()


def _chosen(fs: AbstractFileSystem, walk: Callable[[], Iterator[Listed]], path: str) -> list[Entry]:
    """The entries of the first kind that is there; walks twice rather than keep all names in memory."""
    kinds = {kind_of(name) for _, files in walk() for name, _ in files}
    kind = next((kind for kind in KINDS if kind in kinds), None)
    if kind == "image":
        return [_folder(folder, files) for folder, files in walk() if folder != path or _has_images(files)]
    entries = [
        _marked(entry if isinstance(entry, dict) else fs.info(posixpath.join(folder, name)), kind)
        for folder, files in walk()
        for name, entry in files
        if kind is not None and kind_of(name) == kind
    ]
    return _paired(fs, entries)


def _paired(fs: AbstractFileSystem, entries: list[Entry]) -> list[Entry]:
    """IDX files of labels are no source of their own: their stamps count with those of their images."""
    kept = [entry for entry in entries if entry["kind"] != "idx" or "-labels" not in posixpath.basename(entry["name"])]
    for entry in kept:
        if entry["kind"] == "idx" and (labels := label_entry(fs, entry["name"])) is not None:
            entry["ETag"] = digest_of([stamp_of(entry), labels["size"], stamp_of(labels)])
    return kept


def label_entry(fs: AbstractFileSystem, path: str) -> Entry | None:
    """The IDX file of labels that lies beside one of images; None where there is none."""
    folder, name = posixpath.split(path)
    name = name.replace("-images", "-labels").replace("idx3", "idx1").replace("idx4", "idx1").removesuffix(".gz")
    beside = [posixpath.join(folder, found) for found in (name, f"{name}.gz")]
    return next((fs.info(found) for found in beside if found != path and fs.isfile(found)), None)


def _has_images(files: Iterable[tuple[str, Any]]) -> bool:
    return any(kind_of(name) == "image" for name, _ in files)


def _folder(folder: str, files: list[tuple[str, Any]]) -> Entry:
    """One entry for the images that lie directly in a folder."""
    found = [[name, *_size_and_stamp(entry)] for name, entry in files if kind_of(name) == "image"]
    return {"name": folder, "size": sum(size for _, size, _ in found), "ETag": digest_of(found), "kind": "folder"}


def _size_and_stamp(entry: Any) -> tuple[int, str]:
    if isinstance(entry, dict):
        return entry["size"], stamp_of(entry)
    status = entry.stat()
    return status.st_size, str(status.st_mtime)


def stamp_of(entry: Entry) -> str:
    """What changes when a file is written anew: its etag or time."""
    return str(entry.get("ETag") or entry.get("mtime") or entry.get("created") or entry.get("LastModified"))


def _marked(entry: Entry, kind: str | None) -> Entry:
    return {**entry, "kind": kind}


def _details(listing: Any) -> dict[str, Entry]:
    """fsspec types a listing with details as a plain list."""
    return listing
