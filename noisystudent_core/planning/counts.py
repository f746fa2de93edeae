"""How many images a source has, from what can be known in a second: footers, listings, and a few images."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import cast

import pyarrow.parquet as pq

from noisystudent_core.data.sources import readers
from noisystudent_core.data.sources.samples import open_file
from noisystudent_core.storage.sources import SourceFile, list_source

MOST_FOOTERS = 32  # of a source's Parquet files that are read; the others have as many images a byte
MOST_SAMPLES = 100  # images of a folder or tar that are looked at
TAR_HEADER = 1024  # bytes that a member takes beyond its own, about


@dataclass(frozen=True)
class Images:
    """A set of images: each file's number, their bytes as they are stored, and how it is known."""

    per_file: tuple[int, ...]
    num_bytes: int
    is_exact: bool = True
    is_prepared: bool = False  # an artifact's parts, which are taken over as they are

    @property
    def number(self) -> int:
        """All of them."""
        return sum(self.per_file)

    @property
    def bytes_each(self) -> float:
        """Of an encoded image, on average."""
        return self.num_bytes / max(1, self.number)

    def num_parts(self, images_per_part: int, bytes_per_part: int) -> int:
        """Parts that the files become, each cut at whichever limit comes first."""
        limit = max(1, min(images_per_part, int(bytes_per_part / max(1.0, self.bytes_each))))
        return sum(-(-number // limit) for number in self.per_file)

    def share(self, fraction: float) -> "Images":
        """So much of every file, and of all of them to the image."""
        ends = [round(end * fraction) for end in itertools.accumulate(self.per_file, initial=0)]
        per_file = tuple(end - start for start, end in itertools.pairwise(ends))
        return replace(self, per_file=per_file, num_bytes=round(self.num_bytes * fraction))


def assumed(number: int, images_per_part: int, image_bytes: float) -> Images:
    """So many images on paper, in files of a part each."""
    whole, rest = divmod(number, images_per_part)
    return Images((images_per_part,) * whole + (rest,) * bool(rest), round(number * image_bytes), is_exact=False)


def count(url: str) -> Images:
    """Count the images of a source; raises `SourceError` where there is none."""
    files = list_source(url)
    num_bytes = sum(file.num_bytes for file in files)
    kinds = {file.kind for file in files}
    if kinds <= {"parquet", "part"}:
        rows, is_exact = _by_footers(files)
        return Images(rows, num_bytes, is_exact, is_prepared=kinds == {"part"})
    if files[0].kind in ("tar", "folder"):
        each = _sampled_bytes(files[0]) + TAR_HEADER * (files[0].kind == "tar")
        return Images(tuple(round(file.num_bytes / each) for file in files), num_bytes, is_exact=False)
    if files[0].kind == "csv":
        return Images(tuple(_num_lines(file) - 1 for file in files), 0)
    sizes = [[len(sample.data) for sample in readers.read(file, with_labels=False)] for file in files]
    return Images(tuple(map(len, sizes)), sum(map(sum, sizes)))


def sample(url: str, number: int) -> list[bytes]:
    """The first images of a source as they are stored; fewer, or none, where it gives no more."""
    found: list[bytes] = []
    for file in list_source(url):
        known = replace(file, kind="parquet") if file.kind == "part" else file
        taken = itertools.islice(readers.read(known, with_labels=False), number - len(found))
        found += [image.data for image in taken if image.reason is None and image.data]
        if len(found) >= number:
            break
    return found


def _by_footers(files: Sequence[SourceFile]) -> tuple[tuple[int, ...], bool]:
    """Rows of each file; of many files' from a few of them, and whether all were read."""
    read = files[:: -(-len(files) // MOST_FOOTERS)]
    rows = {file.path: _num_rows(file) for file in read}
    per_byte = sum(rows.values()) / sum(file.num_bytes for file in read)
    return tuple(rows.get(file.path, round(file.num_bytes * per_byte)) for file in files), len(read) == len(files)


def _num_rows(file: SourceFile) -> int:
    with open_file(file) as stream:
        return cast(int, pq.read_metadata(stream).num_rows)


def _num_lines(file: SourceFile) -> int:
    with open_file(file) as stream:
        return sum(1 for line in stream if line.strip())


def _sampled_bytes(file: SourceFile) -> float:
    images = itertools.islice(readers.read(file, with_labels=False), MOST_SAMPLES)
    return fmean([len(image.data) for image in images] or [1])
