"""Images as files, a folder for each class."""

import posixpath
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem

from noisystudent_core.data.sources.fetching import fetched
from noisystudent_core.data.sources.samples import Sample, Samples, printable
from noisystudent_core.errors import LabelError
from noisystudent_core.storage.listing import kind_of
from noisystudent_core.storage.sources import SourceFile

IN_NO_CLASS = (
    "images that lie in no class's folder; put each into a folder named as its class, or take them in without labels"
)


def read(file: SourceFile, *, with_labels: bool) -> Samples:
    """The images that lie directly in one folder, by name; the label is the name of the class.

    Raises `LabelError` where labels are wanted and the images lie in no folder of a class.
    """
    label = class_name(file) if with_labels else None
    names = _names(file)
    paths = [(file.fs, posixpath.join(file.path, name)) for name in names]
    for name, (data, reason) in zip(names, fetched(paths), strict=True):
        yield Sample(data, label, printable(posixpath.normpath(posixpath.join(file.name, name))), reason)


def class_name(file: SourceFile) -> str:
    """The class of a folder: the first step of its path below its source, of several folders of images its name."""
    place = file.name if file.tree is None else posixpath.relpath(file.path, file.tree)
    name = place.strip("/").partition("/")[0]
    if name == "." and file.tree is not None:
        name = posixpath.basename(file.path)
    if name in (".", ""):
        raise LabelError(f"{file.path}: {IN_NO_CLASS}")
    return printable(name)


def _names(file: SourceFile) -> list[str]:
    if isinstance(file.fs, LocalFileSystem):
        return sorted(path.name for path in Path(file.path).iterdir() if kind_of(path.name) == "image")
    found = [posixpath.basename(entry["name"]) for entry in file.fs.ls(file.path, detail=True)]
    return sorted(name for name in found if kind_of(name) == "image")
