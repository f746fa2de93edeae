"""A perceptual hash: copies of an image, compressed or scaled otherwise, have nearly the same 64 bits.

The whole image, grey, is scaled to 32 x 32; the 8 x 8 lowest frequencies of its cosine transform are compared with
their median. JPEG is decoded at a half, quarter or eighth of its size, straight from its own cosine transform: that
takes 0.4 of the time of decoding it in full, and moves a hash by two bits at most.
"""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, ImageOps

from noisystudent_core.data.image_files import NUM_THREADS
from noisystudent_core.data.images import decode_image
from noisystudent_core.data.parts import ANY_SIZE
from noisystudent_core.data.schemas import FINGERPRINTS
from noisystudent_core.errors import ImageError

SIDE_PX = 32
JPEG_PX = 4 * SIDE_PX  # a JPEG's sides stay at least as long: at 32 one hash in four moves by more than two bits
FLAT = 2.0  # grey levels: below this standard deviation an image has no frequencies but those of its compression
# first rows of the cosine transform, rounded so that float64 sums of grey levels are exact, in whatever order
_COSINES = np.round(4096 * np.cos(np.pi / 64 * np.outer(np.arange(8), 2 * np.arange(SIDE_PX) + 1)))


def fingerprint(table: pa.Table) -> pa.Table:
    """Hash the images of a part: `image_id`, `image` and `reason` in, rows of the `FINGERPRINTS` schema out, in order.

    A row without a hash has a reason, that of its intake or of `decode_image`, or else nothing is to be seen in it.
    """
    rows = zip(table["image"], table["reason"].to_pylist(), strict=True)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        found = list(pool.map(lambda row: row[1] or _shrunk(row[0].as_py()), rows))
    hashed = np.array([isinstance(item, np.ndarray) for item in found], bool)
    hashes = np.zeros(len(found), np.uint64)
    if hashed.any():
        hashes[hashed] = hashes_of(np.stack([item for item in found if isinstance(item, np.ndarray)]))
    columns = {
        "image_id": table["image_id"],
        "hash": pa.array(hashes, mask=~hashed),
        "reason": pa.array([item if isinstance(item, str) else None for item in found], pa.string()),
    }
    return pa.table(columns, schema=FINGERPRINTS)


def hashes_of(small: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Hash grey images [N, 32, 32]: bit by bit, whether a low frequency is above the median of the image's 64."""
    frequencies = (_COSINES @ small.astype(np.float64) @ _COSINES.T).reshape(len(small), 64)
    above = frequencies > np.median(frequencies, axis=1, keepdims=True)
    return np.packbits(above, axis=1).view(">u8")[:, 0].astype(np.uint64)


def shrink(data: bytes) -> NDArray[np.uint8]:
    """An image file, upright and grey (ITU-R 601 luma), at [32, 32] whatever its sides; raises as `decode_image`."""
    grey = _draft(data)
    if grey is None:
        grey = Image.fromarray(decode_image(data, channels=1, max_pixels=ANY_SIZE)[0].numpy())
    return np.asarray(grey.resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR))


def _shrunk(data: bytes) -> NDArray[np.uint8] | str | None:
    """The image at 32 x 32; or why it cannot be decoded; or None for one without contrast."""
    try:
        small = shrink(data)
    except ImageError as error:
        return error.reason
    return small if small.std() >= FLAT else None


def _draft(data: bytes) -> Image.Image | None:
    """A JPEG's luma at reduced size; None for what is no plain JPEG, or damaged."""
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.draft("L", (JPEG_PX, JPEG_PX))
            return ImageOps.exif_transpose(image) if image.mode == "L" else None
    except Exception:  # Pillow's plugins raise anything on damaged files: `decode_image` says what is wrong
        return None
