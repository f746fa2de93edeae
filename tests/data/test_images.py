"""Decoding against Pillow for every kind of image, and a named reason for everything that is none."""

import io
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from noisystudent_core.data.image_files import decoded_size
from noisystudent_core.data.images import centre_crop_resize, decode_batch, decode_image
from noisystudent_core.errors import ConfigurationError, ImageError

RNG = np.random.default_rng(0)
# blocks of 8 pixels, which JPEG keeps well; 40 high, 56 wide
RGB = np.kron(RNG.integers(0, 256, (5, 7, 3)), np.ones((8, 8, 1))).astype(np.uint8)
GREY = RGB[..., 0]
ALPHA = np.concatenate((RGB, RNG.integers(0, 256, (40, 56, 1), dtype=np.uint8)), axis=2)
PALETTE = Image.fromarray(RGB).quantize(32)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(image: Image.Image, mode: str = "RGB") -> torch.Tensor:
    array = np.array(image.convert(mode))
    return torch.from_numpy(array if array.ndim == 3 else array[..., None]).permute(2, 0, 1)


PNG, JPEG = encode(Image.fromarray(RGB), "PNG"), encode(Image.fromarray(RGB), "JPEG", quality=90)
# name -> (bytes, the image they must give)
KINDS: dict[str, tuple[bytes, Image.Image]] = {
    "png": (PNG, Image.fromarray(RGB)),
    "png_grey": (encode(Image.fromarray(GREY), "PNG"), Image.fromarray(GREY)),
    "png_one_bit": (encode(Image.fromarray(GREY > 99), "PNG"), Image.fromarray(GREY > 99)),
    "png_grey_alpha": (encode(Image.fromarray(ALPHA[..., 2:]), "PNG"), Image.fromarray(ALPHA[..., 2])),
    "png_alpha": (encode(Image.fromarray(ALPHA), "PNG"), Image.fromarray(RGB)),
    "png_palette": (encode(PALETTE, "PNG"), PALETTE),
    "png_palette_transparent": (encode(PALETTE, "PNG", transparency=3), PALETTE),
    "png_palette_alpha": (encode(PALETTE, "PNG", transparency=bytes(range(0, 256, 8))), PALETTE),
    "png_rgb_transparent": (encode(Image.fromarray(RGB), "PNG", transparency=(1, 2, 3)), Image.fromarray(RGB)),
    "gif": (encode(PALETTE, "GIF", save_all=True, append_images=[PALETTE.rotate(180)]), PALETTE),
    "bmp": (encode(Image.fromarray(RGB), "BMP"), Image.fromarray(RGB)),
    "webp": (encode(Image.fromarray(RGB), "WEBP", lossless=True), Image.fromarray(RGB)),
    "tiff": (encode(Image.fromarray(RGB), "TIFF", compression="tiff_lzw"), Image.fromarray(RGB)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_lossless_kinds_give_their_pixels(kind: str) -> None:
    data, image = KINDS[kind]
    assert torch.equal(decode_image(data), pixels(image))
    assert torch.equal(decode_image(data, channels=1), pixels(image.convert("RGB"), "L"))
    assert decoded_size(data) == (40, 56)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"keep_rgb": True}])
def test_jpeg_is_pillows(options: dict[str, Any]) -> None:
    data = encode(Image.fromarray(RGB), "JPEG", quality=90, **options)
    expected = Image.open(io.BytesIO(data))
    assert (decode_image(data).int() - pixels(expected).int()).abs().max() <= 1
    assert (decode_image(data, channels=1).int() - pixels(expected, "L").int()).abs().max() <= 1


def test_grey_jpeg_has_three_equal_channels() -> None:
    image = decode_image(encode(Image.fromarray(GREY), "JPEG", quality=95))
    assert torch.equal(image[0], image[1]) and torch.equal(image[0], image[2])
    assert (image[0].int() - torch.from_numpy(GREY).int()).abs().float().mean() < 2


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_keeps_its_colours(kind: str) -> None:
    image = decode_image(encode(Image.fromarray(RGB).convert("CMYK"), kind))
    assert (image.int() - pixels(Image.fromarray(RGB)).int()).abs().float().mean() < 8


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    levels = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    image = decode_image(encode(Image.fromarray(levels), kind), channels=1)
    assert torch.equal(image[0], torch.from_numpy(np.rint(levels / 257).astype(np.uint8)))


def png_by_hand(header: bytes, body: bytes) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_sixteen_bit_colour_is_scaled() -> None:
    values = [0, 257, 65535, 40000, 30000, 20000, 128, 129, 1000]
    row = b"\0" + struct.pack(">9H", *values)
    data = png_by_hand(struct.pack(">IIBBBBB", 3, 1, 16, 2, 0, 0, 0), zlib.compress(row))  # Pillow writes no such
    grey_levels = decode_image(data).permute(1, 2, 0).flatten().tolist()
    assert grey_levels == pytest.approx([value / 257 for value in values], abs=1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    data = encode(Image.fromarray(RGB), kind, exif=exif, **options)
    height, width = (40, 56) if orientation <= 4 else (56, 40)
    flips = {2: (2,), 3: (1, 2), 4: (1,)}
    expected = pixels(Image.fromarray(RGB))
    if orientation >= 5:
        expected = expected.transpose(1, 2)
        flips = {5: (), 6: (2,), 7: (1, 2), 8: (1,)}
    expected = expected.flip(flips.get(orientation, ()))
    image = decode_image(data)
    assert image.shape == (3, height, width) and decoded_size(data) == (height, width)
    assert (image.int() - expected.int()).abs().float().mean() < 4


def reason_of(data: bytes, **options: Any) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(data, **options)
    with pytest.raises(ImageError) as checked:
        decoded_size(data, **options)
    assert checked.value.reason == caught.value.reason
    return caught.value.reason


def test_reasons() -> None:
    assert reason_of(b"") == "empty"
    assert reason_of(b"hello, this is text") == "not_an_image"
    assert reason_of(bytes(1000)) == "not_an_image"
    assert reason_of(b"RIFF\x04\x00\x00\x00WAVE") == "not_an_image"
    assert reason_of(encode(Image.fromarray(GREY.astype(np.float32)), "TIFF")) == "undecodable"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.99])
def test_truncated_files_are_named_so(kind: str, share: float) -> None:
    data = encode(PALETTE if kind == "GIF" else Image.fromarray(RGB), kind)
    assert reason_of(data[: max(8, int(len(data) * share))]) == "truncated"


@pytest.mark.parametrize("data", [PNG, JPEG], ids=["png", "jpeg"])
@pytest.mark.parametrize("missing", [1, 2, 12])
def test_the_last_bytes_count(data: bytes, missing: int) -> None:
    assert reason_of(data[:-missing]) == "truncated"


def test_damaged_png_is_undecodable() -> None:
    middle = len(PNG) // 2
    assert reason_of(PNG[:middle] + bytes(20) + PNG[middle + 20 :]) == "undecodable"


@pytest.mark.parametrize("data", [PNG, JPEG, KINDS["gif"][0]], ids=["png", "jpeg", "gif"])
def test_too_many_pixels_by_the_header(data: bytes) -> None:
    assert reason_of(data, max_pixels=40 * 56 - 1) == "too_many_pixels"
    assert decode_image(data, max_pixels=40 * 56).shape == (3, 40, 56)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_of_30000_px_a_side_is_refused_by_its_header(kind: str) -> None:
    if kind == "PNG":
        rows = bytes(30_000 * (1 + 30_000 // 8))  # complete: 900 million pixels of one bit
        bomb = png_by_hand(struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0), zlib.compress(rows, level=1))
        assert len(bomb) < 1_000_000
    else:
        at = JPEG.index(b"\xff\xc0") + 5
        bomb = JPEG[:at] + struct.pack(">HH", 30_000, 30_000) + JPEG[at + 4 :]
    tracemalloc.start()
    assert reason_of(bomb) == "too_many_pixels"
    pixels, reasons = decode_batch([PNG, bomb], 32)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    assert reasons == [None, "too_many_pixels"] and not pixels[1].any()


def test_decompression_bomb_is_refused_before_decoding() -> None:
    bomb = bytearray(encode(Image.new("L", (8, 8)), "GIF"))
    bomb[6:10] = b"\xff\xff\xff\xff"
    assert reason_of(bytes(bomb)) == "too_many_pixels"


@settings(max_examples=150, deadline=None)
@given(
    source=st.sampled_from([PNG, JPEG, KINDS["gif"][0], KINDS["tiff"][0], KINDS["webp"][0], KINDS["png_palette"][0]]),
    position=st.floats(0, 1),
    damage=st.binary(min_size=1, max_size=12),
)
def test_damage_gives_an_image_or_an_image_error(source: bytes, position: float, damage: bytes) -> None:
    start = int(position * (len(source) - 1))
    damaged = source[:start] + damage + source[start + len(damage) :]
    try:
        image = decode_image(damaged, max_pixels=10**6)
    except ImageError as error:
        assert error.reason in ("truncated", "undecodable", "not_an_image", "too_many_pixels")
        assert reason_of(damaged, max_pixels=10**6) == error.reason  # in the check as images are taken in, too
    else:
        assert image.dtype == torch.uint8 and image.shape[0] == 3
        assert decoded_size(damaged, max_pixels=10**6) == tuple(image.shape[1:])


def test_crop_of_the_exact_size_is_the_image() -> None:
    image = pixels(Image.fromarray(RGB))[:, :, 8:48]
    assert torch.equal(centre_crop_resize(image, 40), image)


def test_crop_takes_the_centre_of_the_longer_side() -> None:
    assert torch.equal(centre_crop_resize(pixels(Image.fromarray(RGB)), 40), pixels(Image.fromarray(RGB))[:, :, 8:48])


def test_resize_is_pillows_bicubic_within_one_grey_level() -> None:
    image = Image.fromarray(RGB)
    # crop fraction size / (size + 32): the shorter side 40 becomes 56 + 32 = 88, the longer 56 * 88 / 40 = 123
    expected = pixels(image.resize((123, 88), Image.Resampling.BICUBIC))[:, 16:72, 34:90]
    resized = centre_crop_resize(pixels(image), 56, 56 / 88)
    assert (resized.int() - expected.int()).abs().max() <= 1


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 300),
    channels=st.sampled_from([1, 3]),
    size=st.integers(2, 48),
    crop_fraction=st.floats(0.3, 1),
)
def test_every_size_becomes_the_square(height: int, width: int, channels: int, size: int, crop_fraction: float) -> None:
    image = torch.full((channels, height, width), 91, dtype=torch.uint8)
    square = centre_crop_resize(image, size, crop_fraction)
    assert square.shape == (channels, size, size) and (square == 91).all()


@pytest.mark.parametrize("num_threads", [1, 2])
def test_batch_equals_one_by_one_and_names_the_bad(num_threads: int) -> None:
    rows = [PNG, b"", JPEG, b"text", KINDS["png_grey"][0], PNG[:-20]] * 5
    batch, reasons = decode_batch(rows, 32, 0.875, num_threads=num_threads)
    assert reasons == [None, "empty", None, "not_an_image", None, "truncated"] * 5
    for row, data in enumerate(rows):
        expected = centre_crop_resize(decode_image(data), 32, 0.875) if reasons[row] is None else torch.zeros(3, 32, 32)
        assert torch.equal(batch[row].float(), expected.float())


def test_empty_batch() -> None:
    batch, reasons = decode_batch([], 32, channels=1)
    assert batch.shape == (0, 1, 32, 32) and reasons == []


def test_bad_settings() -> None:
    with pytest.raises(ConfigurationError, match="channels=4: must be 1"):
        decode_image(PNG, channels=4)
    with pytest.raises(ConfigurationError, match="num_threads=0: must be >= 1"):
        decode_batch([PNG], 32, num_threads=0)
    for size, crop_fraction in ((1, 1), (32, 0), (32, 1.1)):
        with pytest.raises(ConfigurationError, match=f"size={size}, crop_fraction={crop_fraction}: must be"):
            centre_crop_resize(decode_image(PNG), size, crop_fraction)
