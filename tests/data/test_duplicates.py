"""What a hash withstands and what it tells apart, on pictures with the spectrum of photographs."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image, ImageEnhance
from torchvision.transforms.v2.functional import resize

from noisystudent_core.data.duplicates import fingerprint, hashes_of, shrink
from noisystudent_core.data.images import decode_image
from noisystudent_core.data.schemas import FINGERPRINTS

NUM_PICTURES = 40
Change = Callable[[Image.Image], bytes]
Picture = Callable[..., bytes]


def photograph(number: int, width: int = 240, height: int = 160) -> Image.Image:
    """Coloured noise whose amplitude falls with frequency, as a photograph's does."""
    generator = np.random.default_rng(number)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.fftfreq(width)[None] * width)
    waves = generator.normal(size=(3, height, width)) + generator.normal(size=(1, height, width)) * 2
    pixels = np.fft.ifft2(np.fft.fft2(waves) / np.maximum(frequency, 1) ** 1.2).real
    pixels = 128 + 50 * (pixels - pixels.mean()) / pixels.std()
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def hash_of(data: bytes) -> int:
    return int(hashes_of(shrink(data)[None])[0])


def cropped(image: Image.Image, share: float) -> Image.Image:
    x, y = round(image.width * share), round(image.height * share)
    return image.crop((x, y, image.width - x, image.height - y))


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    return [photograph(number) for number in range(NUM_PICTURES)]


@pytest.fixture(scope="module")
def hashes(photographs: list[Image.Image]) -> list[int]:
    return [hash_of(encoded(image, quality=95)) for image in photographs]


CHANGES: dict[str, tuple[Change, int]] = {  # and the most bits by which it moves any of the hashes
    "JPEG of quality 50": (lambda image: encoded(image, quality=50), 4),
    "half the size": (lambda image: encoded(image.resize((120, 80)), quality=90), 4),
    "another aspect, PNG": (lambda image: encoded(image.resize((224, 224)), "PNG"), 4),
    "grey": (lambda image: encoded(image.convert("L")), 4),
    "a tenth brighter": (lambda image: encoded(ImageEnhance.Brightness(image).enhance(1.1)), 6),
    "a crop of 1%": (lambda image: encoded(cropped(image, 0.01)), 6),
}


@pytest.mark.parametrize("change", CHANGES)
def test_copies_have_nearly_the_same_hash(photographs: list[Image.Image], hashes: list[int], change: str) -> None:
    edit, limit = CHANGES[change]
    moved = [(hash_of(edit(image)) ^ before).bit_count() for image, before in zip(photographs, hashes, strict=True)]
    assert max(moved) <= limit
    assert np.mean(np.array(moved) <= 4) >= 0.8


def test_what_a_hash_does_not_withstand(photographs: list[Image.Image], hashes: list[int]) -> None:
    changed = [
        *(encoded(cropped(image, 0.1)) for image in photographs),
        *(encoded(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) for image in photographs),
    ]
    moved = [(hash_of(data) ^ before).bit_count() for data, before in zip(changed, hashes * 2, strict=True)]
    assert min(moved) > 4


def test_other_photographs_are_far(hashes: list[int]) -> None:
    apart = [(one ^ other).bit_count() for place, one in enumerate(hashes) for other in hashes[:place]]
    assert min(apart) > 8
    assert not any(distance % 2 for distance in apart)  # as each hash has 32 bits set


def test_half_of_the_bits_are_set(hashes: list[int]) -> None:
    assert {value.bit_count() for value in hashes} == {32}


def test_hash_is_that_of_the_cosine_transform(photographs: list[Image.Image]) -> None:
    """By its definition, on a PNG, with another library's scaling."""
    for image in photographs[:10]:
        data = encoded(image, "PNG")
        small = resize(decode_image(data, channels=1), [32, 32], antialias=True)[0].double()
        angle = torch.pi / 64 * torch.outer(torch.arange(8), 2 * torch.arange(32) + 1).double()
        frequencies = (angle.cos() @ small @ angle.cos().T).flatten()
        above = frequencies > frequencies.quantile(0.5)
        expected = int("".join("1" if bit else "0" for bit in above.tolist()), 2)
        assert (hash_of(data) ^ expected).bit_count() <= 2


def test_reduced_jpeg_has_the_hash_of_the_whole_one(photographs: list[Image.Image]) -> None:
    for image in photographs[:10]:
        data = encoded(image.resize((900, 600)), quality=90)
        whole = Image.fromarray(decode_image(data, channels=1)[0].numpy())
        assert (hash_of(data) ^ hash_of(encoded(whole, "BMP"))).bit_count() <= 2


def test_images_are_hashed_upright() -> None:
    image = photograph(0)
    turned, exif = image.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6  # to be turned by 270 degrees
    assert (hash_of(encoded(turned, exif=exif)) ^ hash_of(encoded(image))).bit_count() <= 2
    assert (hash_of(encoded(turned)) ^ hash_of(encoded(image))).bit_count() > 8


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16"])
def test_images_of_any_mode_have_a_hash(mode: str) -> None:
    image = photograph(1)
    if mode == "I;16":
        changed = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        changed = image.convert(mode)
    data = encoded(changed, "JPEG" if mode == "CMYK" else "PNG")
    assert (hash_of(data) ^ hash_of(encoded(image, "PNG"))).bit_count() <= 6


def rows(*images: tuple[bytes, str | None]) -> pa.Table:
    ids = [bytes([number]) * 16 for number in range(len(images))]
    return pa.table(
        {
            "image_id": pa.array(ids, pa.binary(16)),
            "image": pa.array([image for image, _ in images], pa.binary()),
            "reason": pa.array([reason for _, reason in images], pa.string()),
        }
    )


def test_every_row_has_a_hash_or_the_reason_why_not() -> None:
    good = encoded(photograph(2))
    table = fingerprint(
        rows((good, None), (good, "too_many_pixels"), (b"words", None), (good[:-900], None), (b"", None))
    )
    assert table.schema.equals(FINGERPRINTS)
    assert table["hash"].to_pylist() == [hash_of(good), None, None, None, None]
    assert table["reason"].to_pylist() == [None, "too_many_pixels", "not_an_image", "truncated", "empty"]
    assert table["image_id"].to_pylist() == [bytes([number]) * 16 for number in range(5)]


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_blank_images_have_none(kind: str) -> None:
    pixels = 200 + np.random.default_rng(0).integers(0, 3, (64, 64, 3))  # as after compression
    table = fingerprint(rows((encoded(Image.new("RGB", (64, 64), "white"), kind), None), (_file(pixels, kind), None)))
    assert table["hash"].to_pylist() == table["reason"].to_pylist() == [None, None]


def _file(pixels: np.ndarray, kind: str) -> bytes:
    return encoded(Image.fromarray(pixels.astype(np.uint8)), kind)


def test_a_part_without_images_has_no_hashes() -> None:
    assert fingerprint(rows()).equals(FINGERPRINTS.empty_table())
