"""Bytes to uint8 pixels: decode any image that Pillow reads, resize, crop.

Plain JPEG (8 bits a channel, grey or colour) goes through torchvision's decoder, which releases the interpreter lock
and takes half of Pillow's time; everything else goes through Pillow (torchvision's PNG decoder ends the process on some
damaged files). Transparency is dropped, not blended, as Pillow's `convert("RGB")` does. An image that is not there in
full is an error, never silently grey.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2.functional import center_crop

from noisystudent_core.data.image_files import MAX_PIXELS, check_bytes, check_pixels, decode_with_pillow, jpeg_frame
from noisystudent_core.errors import ConfigurationError, ImageError

_LONGEST_ASPECT = 3


def decode_image(data: bytes, *, channels: int = 3, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Decode an image file to uint8 [channels, H, W], turned upright by its EXIF orientation.

    Grey, palette, alpha (dropped), CMYK and 16-bit images (scaled) all give `channels` of 1 (ITU-R 601 luma) or 3
    channels; of an animation the first frame counts. Raises ImageError with `reason` "empty", "not_an_image",
    "truncated", "too_many_pixels" (by the header, before decoding) or "undecodable"; ConfigurationError for other
    `channels`.
    """
    if channels not in (1, 3):
        raise ConfigurationError(f"channels={channels}: must be 1 (grey) or 3 (RGB)")
    check_bytes(data)
    frame = jpeg_frame(data)
    if frame is not None and frame.bits == 8 and frame.num_channels in (1, 3):
        check_pixels(frame.height, frame.width, max_pixels)
        try:
            return _to_channels(_decode_jpeg(data, frame.num_channels), channels)
        except RuntimeError:
            pass  # Pillow decodes it, or says what is wrong
    return _to_channels(torch.from_numpy(decode_with_pillow(data, max_pixels=max_pixels)), channels)


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


def _to_channels(image: Tensor, channels: int) -> Tensor:
    if len(image) == channels:
        return image
    if channels == 3:
        return image.expand(3, -1, -1).contiguous()
    red, green, blue = image.to(torch.int32)
    # ITU-R 601 luma in Pillow's fixed-point form
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).to(torch.uint8)[None]
