"""Bytes to uint8 pixels: decode any image that Pillow reads, resize, crop.

Plain JPEG (8 bits a channel, grey or colour) goes through torchvision's decoder, which releases the interpreter lock
and takes half of Pillow's time; everything else goes through Pillow (torchvision's PNG decoder ends the process on some
damaged files). Transparency is dropped, not blended, as Pillow's `convert("RGB")` does. An image that is not there in
full is an error, never silently grey.
"""

import io
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2.functional import center_crop

from noisystudent_core.errors import ConfigurationError, ImageError

# Pillow warns of a decompression bomb above this many pixels and refuses twice as many
MAX_PIXELS = 89_478_485

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_SIGNATURES = (_PNG, _JPEG, b"GIF8", b"II*\x00", b"MM\x00*")
# an EXIF orientation from 5 on exchanges height and width
_ORIENTATION, _FIRST_TRANSPOSED = 0x0112, 5
_LONGEST_ASPECT = 3


@dataclass(frozen=True)
class JpegFrame:
    """What a JPEG's frame header says; its marker tells the kind of coding, 0xC0 the baseline."""

    marker: int
    bits: int
    height: int
    width: int
    num_channels: int


def decode_image(data: bytes, *, channels: int = 3, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Decode an image file to uint8 [channels, H, W], turned upright by its EXIF orientation.

    Grey, palette, alpha (dropped), CMYK and 16-bit images (scaled) all give `channels` of 1 (ITU-R 601 luma) or 3
    channels; of an animation the first frame counts. Raises ImageError with `reason` "empty", "not_an_image",
    "truncated", "too_many_pixels" (by the header, before decoding) or "undecodable"; ConfigurationError for other
    `channels`.
    """
    if channels not in (1, 3):
        raise ConfigurationError(f"channels={channels}: must be 1 (grey) or 3 (RGB)")
    if not data:
        raise ImageError("0 bytes: an image has at least a header; drop the row", "empty")
    frame = jpeg_frame(data)
    if frame is not None and frame.bits == 8 and frame.num_channels in (1, 3):
        _check_pixels(frame.height, frame.width, max_pixels)
        try:
            return _to_channels(_decode_jpeg(data, frame.num_channels), channels)
        except RuntimeError:
            pass  # Pillow decodes it, or says what is wrong
    return _to_channels(_decode_with_pillow(data, max_pixels), channels)


def image_size(data: bytes) -> tuple[int, int]:
    """Read (height, width) after EXIF rotation, without decoding where the format allows; raises as `decode_image`."""
    if not data:
        raise ImageError("0 bytes: an image has at least a header; drop the row", "empty")
    with _open(data) as image:
        try:
            orientation = image.getexif().get(_ORIENTATION, 1)
        except Exception as error:  # as in _decode_with_pillow
            raise _failure(data, error) from error
        # Pillow has already exchanged the two sides of a TIFF
        transposed = image.format != "TIFF" and orientation >= _FIRST_TRANSPOSED
        return (image.width, image.height) if transposed else (image.height, image.width)


def centre_crop_resize(image: Tensor, size: int, crop_fraction: float = 1.0) -> Tensor:
    """Resize the shorter side to size / crop_fraction and cut the centre out (METHOD section 4: size / (size + 32)).

    Bicubic, antialiased. `image` uint8 [C, H, W], of any size, smaller ones grow; returns uint8 [C, size, size]. Raises
    ConfigurationError for a size below 2, a fraction outside (0, 1], and images of another type or rank.
    """
    if image.dtype != torch.uint8 or image.ndim != 3 or size < 2 or not 0 < crop_fraction <= 1:
        raise ConfigurationError(
            f"image {image.dtype} {list(image.shape)}, size={size}, crop_fraction={crop_fraction}: must be torch.uint8 "
            "[C, H, W], size >= 2 and a fraction in (0, 1]; the paper's is size / (size + 32)"
        )
    height, width = image.shape[1:]
    box, sides = resize_plan(height, width, size, crop_fraction)
    image = center_crop(image, box)
    if box != sides:
        # torch resizes uint8 on the CPU in integer arithmetic, clipped
        image = interpolate(image[None], sides, mode="bicubic", antialias=True)[0]
    return center_crop(image, [size, size])


def resize_plan(height: int, width: int, size: int, crop_fraction: float) -> tuple[list[int], list[int]]:
    """Which middle part [H, W] of an image is resized, and to which sides, before the middle of that is cut out."""
    # far parts of a long strip cannot be reached by the crop, but would be resized
    longest = _LONGEST_ASPECT * min(height, width)
    box = [min(height, longest), min(width, longest)]
    resized = round(size / crop_fraction)
    if min(box) == resized:
        return box, box
    return box, [int(resized * side / min(box)) for side in box]


def decode_batch(
    images: Sequence[bytes],
    size: int,
    crop_fraction: float = 1.0,
    channels: int = 3,
    num_threads: int = 1,
    max_pixels: int = MAX_PIXELS,
) -> tuple[Tensor, list[str | None]]:
    """Decode, resize and crop many images in `num_threads` threads.

    Returns uint8 [N, channels, size, size] and per image None or the reason why it is undecodable (its pixels are 0).
    Raises ConfigurationError as `decode_image` and `centre_crop_resize` do, and for fewer threads than one.
    """
    if num_threads < 1:
        raise ConfigurationError(f"num_threads={num_threads}: must be >= 1; use the number of cores")
    batch = torch.zeros(len(images), channels, size, size, dtype=torch.uint8)

    def decode(row: int) -> str | None:
        try:
            image = decode_image(images[row], channels=channels, max_pixels=max_pixels)
        except ImageError as error:
            return error.reason
        batch[row] = centre_crop_resize(image, size, crop_fraction)
        return None

    if num_threads == 1:
        return batch, [decode(row) for row in range(len(images))]
    with ThreadPoolExecutor(num_threads) as pool:
        return batch, list(pool.map(decode, range(len(images))))


def _decode_jpeg(data: bytes, num_channels: int) -> Tensor:
    """Decode with torchvision to [num_channels, H, W]; RuntimeError where the file is damaged."""
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    mode = ImageReadMode.GRAY if num_channels == 1 else ImageReadMode.RGB
    # a list in, a list out
    return decode_jpeg([encoded], mode, apply_exif_orientation=True)[0]


def _decode_with_pillow(data: bytes, max_pixels: int) -> Tensor:
    with _open(data) as image:
        _check_pixels(image.height, image.width, max_pixels)
        try:
            return _pixels(ImageOps.exif_transpose(image))
        except Exception as error:  # Pillow's plugins raise anything on damaged files; one row must not end the stage
            raise _failure(data, error) from error


def _pixels(image: Image.Image) -> Tensor:
    """Pixels of a Pillow image of any mode, uint8 [1, H, W] where it has no colour, else [3, H, W]."""
    if image.mode.startswith("I;16"):
        # [0, 65535] to the nearest of [0, 255]; 16-bit colour arrives here as 8 bits already
        return torch.from_numpy((np.asarray(image).astype(np.int32) + 128) // 257).to(torch.uint8)[None]
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode!r} does not say which value is white; store 8 or 16 bits a channel")
    if image.mode in ("1", "L", "LA", "La"):
        return torch.from_numpy(np.array(image.convert("L")))[None]
    if image.mode == "RGBa" or "transparency" in image.info:
        image = image.convert("RGBA")
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def _to_channels(image: Tensor, channels: int) -> Tensor:
    if len(image) == channels:
        return image
    if channels == 3:
        return image.expand(3, -1, -1).contiguous()
    red, green, blue = image.to(torch.int32)
    # ITU-R 601 luma in Pillow's fixed-point form
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).to(torch.uint8)[None]


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
    except Exception as error:  # as in _decode_with_pillow
        raise _failure(data, error) from error


def _failure(data: bytes, error: Exception) -> ImageError:
    cut = isinstance(error, EOFError) or "truncated" in str(error).lower()
    message = f"{len(data)} bytes starting {data[:8]!r}: {error or type(error).__name__}; repair the file or drop it"
    return ImageError(message, "truncated" if cut else "undecodable")


def _check_pixels(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise ImageError(
            f"{height} x {width} pixels: must be at most max_pixels={max_pixels}; shrink the image or raise the limit",
            "too_many_pixels",
        )


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
