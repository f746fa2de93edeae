"""The GPU's decoder: what it is given, how close it comes, who decodes the rest. All but nvJPEG needs no GPU."""

import io
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks.measuring import smooth_fields
from noisystudent_core.data.gpu_jpeg import centre_crop_resize_float, decode_on_gpu, is_plain
from noisystudent_core.data.images import centre_crop_resize, decode_batch

PIXELS = smooth_fields(num_images=6, size_px=96)
CPU = torch.device("cpu")


def encode(number: int, kind: str = "JPEG", mode: str = "RGB", width: int = 96, **options: Any) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(PIXELS[number, :, :, :width].permute(1, 2, 0).numpy()).convert(mode)
    image.save(file, kind, **options)
    return file.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encode(0), True),
        (encode(0, mode="L"), True),
        (encode(0, subsampling=0), True),
        (encode(0, exif=turned(1)), True),
        (encode(0, exif=Image.Exif()), True),
        (encode(0) + bytes(5), True),
        (encode(0, exif=turned(6)), False),
        (encode(0, exif=turned(2)), False),
        (encode(0, progressive=True), False),
        (encode(0, mode="CMYK"), False),
        (encode(0, keep_rgb=True), False),
        (encode(0)[:-1], False),
        (encode(0, kind="PNG"), False),
        (b"", False),
        (b"\xff\xd8\xff", False),
    ],
)
def test_only_plain_jpegs_are_for_the_gpu(data: bytes, expected: bool) -> None:
    assert is_plain(data) == expected


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(20, 96),
    width=st.integers(20, 96),
    size=st.integers(8, 64),
    crop_fraction=st.floats(0.5, 1),
)
def test_resize_in_floating_point_is_the_same_within_two_grey_levels(
    height: int, width: int, size: int, crop_fraction: float
) -> None:
    images = PIXELS[:, :, :height, :width]
    expected = torch.stack([centre_crop_resize(image, size, crop_fraction) for image in images])
    found = centre_crop_resize_float(images, size, crop_fraction)
    assert (found.int() - expected.int()).abs().max() <= 2


def mixed() -> list[bytes]:
    """Plain ones of two shapes, one that is refused for damage, and some that are for the CPU."""
    damaged = bytearray(encode(2))
    damaged[2:4] = b"\xff\xdb"  # a table where the header's first segment was
    return [
        encode(0),
        encode(1, width=64),
        encode(2, kind="PNG"),
        bytes(damaged),
        b"",
        encode(3),
        encode(4, exif=turned(6)),
        encode(5, mode="L"),
        encode(3)[:200],
    ]


def check(device: torch.device, most: float) -> None:
    images = mixed()
    expected, reasons = decode_batch(images, 48, 0.875)
    found, why = decode_on_gpu(images, 48, 0.875, device)
    assert why == reasons and sum(reason is not None for reason in reasons) == 3
    assert found.device.type == device.type
    assert (found.cpu().int() - expected.int()).abs().float().flatten(1).mean(1).max() <= most
    assert decode_on_gpu([], 48, 0.875, device)[0].shape == (0, 3, 48, 48)


def test_every_image_has_its_place_whoever_decodes_it() -> None:
    check(CPU, 0.6)  # the same decoder, and only the resize is another


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_nvjpeg_comes_close() -> None:
    check(torch.device("cuda"), 3)
