"""WebDataset's tar files: members of one key, up to the first dot of its name, are one sample. Nothing is unpacked."""

import json
import posixpath
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

from noisystudent_core.data.sources.samples import (
    NO_IMAGE,
    Label,
    Place,
    Sample,
    Samples,
    is_number,
    open_file,
    printable,
)
from noisystudent_core.errors import LabelError, SourceError
from noisystudent_core.storage.listing import IMAGE_SUFFIXES
from noisystudent_core.storage.sources import SourceFile

IMAGES = frozenset(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES)
LABELS = frozenset({"cls", "json"})
MAX_BYTES = 2**30  # of a member: more than `max_pixels` of any format; archives expand to more than memory holds
LABEL_KEYS = ("label", "cls", "class", "class_name")  # of a JSON label, the first that is there


class Member(NamedTuple):
    """A file of the archive, and its bytes where they were wanted."""

    info: tarfile.TarInfo
    data: bytes


Members = dict[str, Member]  # of one sample, by what follows the first dot of their names


def read(file: SourceFile, *, with_labels: bool) -> Samples:
    """Every sample in order; one without an image has a reason.

    So has one whose image is a link, leads out of the archive, or expands to more than `MAX_BYTES`. Raises
    `SourceError` for a damaged archive, `LabelError` for a label that cannot be read.
    """
    wanted = {*IMAGES, *LABELS} if with_labels else {*IMAGES}
    for members in _groups(file, wanted):
        yield _sample(file, members, with_labels)


def labels(file: SourceFile) -> Iterator[Label]:
    """The label of every sample; passes over the images, and stops at the first that is a number."""
    for members in _groups(file, {*LABELS}):
        label = _label(file, members)
        if is_number(label):
            return
        yield label


def _groups(file: SourceFile, wanted: set[str]) -> Iterator[Members]:
    """Neighbours of one key, with the bytes of `wanted` endings; folders and files without an ending are none."""
    key, members = "", Members()
    with open_file(file) as stream, _naming(file), _opened(file, stream) as archive:
        for info in archive:
            vars(archive)["members"] = []  # else every header stays in memory
            folder, name = posixpath.split(info.name)
            stem, _, ending = name.partition(".")
            if info.isdir() or not stem or not ending:
                continue
            found = posixpath.join(folder, stem)
            if found != key and members:
                yield members
                members = {}
            key, ending = found, ending.lower()
            members[ending] = Member(info, _bytes(archive, info) if ending.rpartition(".")[2] in wanted else b"")
    if members:
        yield members


def _opened(file: SourceFile, stream: BinaryIO) -> tarfile.TarFile:
    """Compressed archives are read from front to back, others by place."""
    if file.path.endswith(".tar"):
        return tarfile.open(fileobj=stream, mode="r:")
    return tarfile.open(fileobj=stream, mode="r|*")


@contextmanager
def _naming(file: SourceFile) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise SourceError(f"{file.path}: not a tar file, or damaged ({error}); copy it again") from None


def _sample(file: SourceFile, members: Members, with_labels: bool) -> Sample:
    label = _label(file, members) if with_labels else None
    endings = sorted(members, key=lambda ending: ending not in IMAGES)  # "jpg" before "mask.png"
    image = next((members[ending] for ending in endings if ending.rpartition(".")[2] in IMAGES), None)
    if image is None:
        return Sample(b"", label, _name(file, next(iter(members.values()))), NO_IMAGE)
    name, path = _name(file, image), image.info.name
    if not image.info.isfile():
        return Sample(b"", label, name, "link")
    if path.startswith("/") or ".." in path.split("/"):
        return Sample(b"", label, name, "unsafe_path")
    if image.info.size > MAX_BYTES:
        return Sample(b"", label, name, "too_many_bytes")
    return Sample(image.data, label, name, None, Place(image.info.offset_data, image.info.size))


def _label(file: SourceFile, members: Members) -> Label:
    if "cls" in members:
        return members["cls"].data.decode("utf-8", "backslashreplace").strip() or None
    if "json" not in members:
        return None
    where = members["json"].info.name
    try:
        found = json.loads(members["json"].data)
    except ValueError as error:
        raise LabelError(f"{file.path}: {where} is no JSON ({error}); write it again") from None
    value = next((found[key] for key in LABEL_KEYS if key in found), None) if isinstance(found, dict) else found
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | str)):
        raise LabelError(f"{file.path}: {where} has label {value!r}; must be a number or a name")
    return value


def _bytes(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    if not info.isfile() or info.size > MAX_BYTES:
        return b""
    stream = archive.extractfile(info)
    assert stream is not None
    data = stream.read()
    if len(data) != info.size:
        raise tarfile.ReadError(f"{info.name} has {len(data)} of {info.size} bytes")
    return data


def _name(file: SourceFile, member: Member) -> str:
    return printable(f"{file.name}:{member.info.name}")
