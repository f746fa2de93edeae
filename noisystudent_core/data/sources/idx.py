"""IDX files, as MNIST has them: `NAME-images-idx3-ubyte` beside `NAME-labels-idx1-ubyte`, both maybe with .gz.

Their pixels become portable pixmaps: the same bytes for ever, and an image file to every library.
"""

import gzip
import math
from dataclasses import replace
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from noisystudent_core.data.sources.samples import Sample, Samples, open_file
from noisystudent_core.errors import LabelError, SourceError
from noisystudent_core.storage.listing import label_entry
from noisystudent_core.storage.sources import SourceFile

UNSIGNED_BYTES = 0x08
ROWS = 4096


def pixmap(pixels: NDArray[np.uint8]) -> bytes:
    """An image [H, W] or [H, W, 3] as a portable grey map or pixmap."""
    height, width = pixels.shape[:2]
    return f"P{5 if pixels.ndim == 2 else 6} {width} {height} 255\n".encode() + pixels.tobytes()


def read(file: SourceFile, *, with_labels: bool) -> Samples:
    """Every image in order, grey [H, W] or colour [H, W, 3]; labels come from the file beside it."""
    with _opened(file) as stream:
        shape = _shape(file, stream)
        if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] != 3):
            raise SourceError(f"{file.path}: holds {list(shape)}; must be images [N, H, W] or [N, H, W, 3]")
        labels = _labels(file, shape[0]) if with_labels else None
        for start in range(0, shape[0], ROWS):
            size = min(ROWS, shape[0] - start)
            images = _numbers(file, stream, (size, *shape[1:]))
            for row, pixels in enumerate(images, start):
                yield Sample(pixmap(pixels), None if labels is None else int(labels[row]), f"{file.name}:{row}")


def _labels(file: SourceFile, num_images: int) -> NDArray[np.uint8]:
    beside = _label_file(file)
    with _opened(beside) as stream:
        shape = _shape(beside, stream)
        if shape != (num_images,):
            raise LabelError(f"{beside.path}: holds {list(shape)} labels for {num_images} images; copy both again")
        return _numbers(beside, stream, shape)


def _label_file(file: SourceFile) -> SourceFile:
    """The file of labels that goes with one of images."""
    entry = label_entry(file.fs, file.path)
    if entry is None:
        raise LabelError(
            f"{file.path}: no file of its labels beside it (-labels-idx1-ubyte); copy it there, or take the images in "
            "without labels"
        )
    return replace(file, path=entry["name"])


def _opened(file: SourceFile) -> BinaryIO:
    stream = open_file(file)
    return cast(BinaryIO, gzip.GzipFile(fileobj=stream)) if file.path.endswith(".gz") else stream


def _shape(file: SourceFile, stream: BinaryIO) -> tuple[int, ...]:
    """The header: two zeros, type and number of dimensions, then each as 4 bytes."""
    head = _exactly(file, stream, 4)
    if head[:2] != b"\0\0" or head[2] != UNSIGNED_BYTES:
        raise SourceError(f"{file.path}: begins with {head.hex()}; must be an IDX file of unsigned bytes: 000008..")
    return tuple(int(size) for size in np.frombuffer(_exactly(file, stream, 4 * head[3]), ">u4"))


def _numbers(file: SourceFile, stream: BinaryIO, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.frombuffer(_exactly(file, stream, math.prod(shape)), np.uint8).reshape(shape)


def _exactly(file: SourceFile, stream: BinaryIO, size: int) -> bytes:
    try:
        data = stream.read(size)
    except (gzip.BadGzipFile, EOFError) as error:
        raise SourceError(f"{file.path}: not compressed as its name says, or cut ({error}); copy it again") from None
    if len(data) != size:
        raise SourceError(f"{file.path}: ends {size - len(data)} bytes early; copy it again")
    return data
