"""Image files as bytes: what their headers say, whether they decode, and Pillow's pixels; without PyTorch.

Taking images in needs no more than this, so that its processes stay small. Whatever decodes here decodes in `images`.
"""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from noisystudent_core.errors import ImageError

# Pillow warns of a decompression bomb above this many pixels and refuses twice as many
MAX_PIXELS = 89_478_485
NUM_THREADS = 4  # that decode

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_SIGNATURES = (_PNG, _JPEG, b"GIF8", b"II*\x00", b"MM\x00*")


@dataclass(frozen=True)
class JpegFrame:
    """What a JPEG's frame header says; its marker tells the kind of coding, 0xC0 the baseline."""

    marker: int
    bits: int
    height: int
    width: int
    num_channels: int


def decoded_size(data: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width), upright, of an image that decodes in full; raises as `images.decode_image` does."""
    with _decoding(data, max_pixels) as image:
        if image.mode == "RGB":
            image.load()
        else:
            _pixels(image)
        return image.height, image.width


def decode_with_pillow(data: bytes, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Pixels, upright, [1, H, W] where there is no colour, else [3, H, W]; raises as `images.decode_image` does."""
    with _decoding(data, max_pixels) as image:
        return _pixels(image)


def check_bytes(data: bytes) -> None:
    """Raise `ImageError` where there are none."""
    if not data:
        raise ImageError("0 bytes: an image has at least a header; drop the row", "empty")


def check_pixels(height: int, width: int, max_pixels: int) -> None:
    """Raise `ImageError` for too many, before they are decoded."""
    if height * width > max_pixels:
        raise ImageError(
            f"{height} x {width} pixels: must be at most max_pixels={max_pixels}; shrink the image or raise the limit",
            "too_many_pixels",
        )


@contextmanager
def _decoding(data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """The image, upright; whatever fails with it becomes an `ImageError`."""
    check_bytes(data)
    with _open(data) as image:
        check_pixels(image.height, image.width, max_pixels)
        try:
            yield ImageOps.exif_transpose(image)
        except Exception as error:  # Pillow's plugins raise anything on damaged files; one row must not end the stage
            raise _failure(data, error) from error


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Pixels of a Pillow image of any mode, [1, H, W] where it has no colour, else [3, H, W]."""
    if image.mode.startswith("I;16"):
        # [0, 65535] to the nearest of [0, 255]; 16-bit colour arrives here as 8 bits already
        return ((np.asarray(image).astype(np.int32) + 128) // 257).astype(np.uint8)[None]
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode!r} does not say which value is white; store 8 or 16 bits a channel")
    if image.mode in ("1", "L", "LA", "La"):
        return np.array(image.convert("L"))[None]
    if image.mode == "RGBa" or "transparency" in image.info:
        image = image.convert("RGBA")
    return np.ascontiguousarray(np.array(image.convert("RGB")).transpose(2, 0, 1))


def _open(data: bytes) -> Image.Image:
    """Open with Pillow, which reads the header only; every failure becomes an ImageError."""
    if _is_cut(data):
        raise ImageError(f"{len(data)} bytes: the file says that it is longer; fetch it again or drop it", "truncated")
    try:
        return Image.open(io.BytesIO(data))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{error}; store a smaller image", "too_many_pixels") from error
    except UnidentifiedImageError as error:
        reason = "truncated" if data.startswith(_SIGNATURES) else "not_an_image"
        raise ImageError(f"{len(data)} bytes starting {data[:8]!r}: no image header; drop the row", reason) from error
    except Exception as error:  # as in _decoding
        raise _failure(data, error) from error


def _failure(data: bytes, error: Exception) -> ImageError:
    cut = isinstance(error, EOFError) or "truncated" in str(error).lower()
    message = f"{len(data)} bytes starting {data[:8]!r}: {error or type(error).__name__}; repair the file or drop it"
    return ImageError(message, "truncated" if cut else "undecodable")


def _is_cut(data: bytes) -> bool:
    """Whether the container's own lengths reach past the end: where decoders say something else, or nothing."""
    if data.startswith(b"RIFF") and b"WEBP".startswith(data[8:12]):
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    return data.startswith(_PNG) and not _has_png_end(data)


def _has_png_end(data: bytes) -> bool:
    """Walk the chunks (length, name, body, checksum) to the end mark."""
    start = len(_PNG)
    while start + 12 <= len(data):
        if data[start + 4 : start + 8] == b"IEND":
            return True
        start += 12 + int.from_bytes(data[start : start + 4], "big")
    return False


def jpeg_frame(data: bytes) -> JpegFrame | None:
    """Walk the segments to the frame header (SOF0 to SOF15; C4, C8 and CC are none); None where there is none."""
    if not data.startswith(_JPEG):
        return None
    position = 2
    while position + 10 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return JpegFrame(marker, *struct.unpack(">BHHB", data[position + 4 : position + 10]))
        is_padding = marker == 0xFF
        position += 1 if is_padding else 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None
