"""JPEGs decoded by the GPU's own decoder (nvJPEG), resized there; everything else by the CPU.

The pixels are not those of the CPU: nvJPEG's colours and upsampling are its own, and the resize is in floating point.
What is not a plain JPEG (8 bits, grey or YCbCr, upright, complete, baseline), and what the GPU refuses, is decoded by
`decode_batch`, which also says why an image is none. Damage in the middle of a file may pass unnoticed.
"""

import re
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2.functional import center_crop

from noisystudent_core.data.image_files import jpeg_frame
from noisystudent_core.data.images import decode_batch, resize_plan
from noisystudent_core.data.parts import ANY_SIZE
from noisystudent_core.errors import ConfigurationError

# an EXIF entry "orientation" of one 16-bit number, little or big endian, and the number
_ORIENTATION = re.compile(rb"\x12\x01\x03\x00\x01\x00\x00\x00(..)|\x01\x12\x00\x03\x00\x00\x00\x01(..)", re.DOTALL)
_UPRIGHT = (b"\x01\x00", b"\x00\x01")
_HEADER_BYTES = 65_536  # a segment's greatest length
_BASELINE = 0xC0


def check_gpu(device: torch.device) -> None:
    """Raise `ConfigurationError` unless the device can decode."""
    if device.type != "cuda":
        raise ConfigurationError(f'decoder="gpu" on a {device.type} device: needs an NVIDIA GPU; take decoder="cpu"')


def decode_on_gpu(
    images: Sequence[bytes], size: int, crop_fraction: float, device: torch.device
) -> tuple[Tensor, list[str | None]]:
    """Decode, resize and crop many images on `device`; returns as `decode_batch`, the pixels on the device."""
    out = torch.zeros(len(images), 3, size, size, dtype=torch.uint8, device=device)
    plain = [row for row, data in enumerate(images) if is_plain(data)]
    decoded = dict(zip(plain, _decode([images[row] for row in plain], device), strict=True))
    by_shape: dict[torch.Size, list[int]] = defaultdict(list)
    for row, image in decoded.items():
        if image is not None:
            by_shape[image.shape].append(row)
    for rows in by_shape.values():
        out[rows] = centre_crop_resize_float(torch.stack([_present(decoded[row]) for row in rows]), size, crop_fraction)
    done = {row for rows in by_shape.values() for row in rows}
    rest = [row for row in range(len(images)) if row not in done]
    reasons: list[str | None] = [None] * len(images)
    if rest:
        pixels, found = decode_batch([images[row] for row in rest], size, crop_fraction, max_pixels=ANY_SIZE)
        out[rest] = pixels.to(device)
        for row, reason in zip(rest, found, strict=True):
            reasons[row] = reason
    return out, reasons


def is_plain(data: bytes) -> bool:
    """Whether the GPU's decoder shows this file as the CPU's does."""
    frame = jpeg_frame(data)
    if frame is None or frame.marker != _BASELINE or frame.bits != 8 or frame.num_channels not in (1, 3):
        return False
    if not data.rstrip(b"\0").endswith(b"\xff\xd9") or b"Adobe" in data[:_HEADER_BYTES]:
        return False  # cut, or perhaps RGB or CMYK
    found = _ORIENTATION.search(data, 0, _HEADER_BYTES)
    return found is None or (found[1] or found[2]) in _UPRIGHT


def centre_crop_resize_float(images: Tensor, size: int, crop_fraction: float) -> Tensor:
    """`centre_crop_resize` of uint8 [N, 3, H, W] in floating point, within two grey levels of it."""
    box, sides = resize_plan(images.shape[-2], images.shape[-1], size, crop_fraction)
    resized = center_crop(images, box)
    if box != sides:
        for shape in ([box[0], sides[1]], sides):  # rounded and clipped between the axes, as on the CPU
            levels = interpolate(resized.float(), shape, mode="bicubic", antialias=True)
            resized = levels.round().clamp(0, 255).to(torch.uint8)
    return center_crop(resized, [size, size])


def _decode(images: list[bytes], device: torch.device) -> list[Tensor | None]:
    """Decode to uint8 [3, H, W] each; None for what is refused, which is found by halving the list."""
    if not images:
        return []
    encoded = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in images]
    try:
        return list(decode_jpeg(encoded, ImageReadMode.RGB, device=device))
    except RuntimeError:
        if len(images) == 1:
            return [None]
    half = len(images) // 2
    return _decode(images[:half], device) + _decode(images[half:], device)


def _present(image: Tensor | None) -> Tensor:
    assert image is not None
    return image
