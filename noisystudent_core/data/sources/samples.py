"""What every reader gives: an image's bytes, its label as the source has it, and where they stand."""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, cast

from noisystudent_core.storage.sources import SourceFile

Label = int | str | None
NO_IMAGE = "no_image"  # reason of what is no image, and was not meant to be one


class Place(NamedTuple):
    """Where an image's bytes stand in a file: offset and length in a tar, row group and row of it in Parquet."""

    start: int
    at: int


class Sample(NamedTuple):
    """One image of a source; `reason` is set where the source itself does not give its bytes."""

    data: bytes
    label: Label
    name: str
    reason: str | None = None
    place: Place | None = None


Samples = Iterator[Sample]


def open_file(file: SourceFile) -> BinaryIO:
    """A source's file, to be read from any place in it."""
    return cast(BinaryIO, file.fs.open(file.path, "rb"))


def printable(name: str) -> str:
    """A file's name as UTF-8 text: bytes that are none are written out, as \\xff."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_number(label: Label) -> bool:
    """Whether a label is a whole number, as such or as text, rather than the name of a class."""
    return isinstance(label, int) or (label is not None and label.isascii() and label.removeprefix("-").isdigit())
