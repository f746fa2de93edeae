"""What a figure shows, read back from its pixels: every image in its place, at whole multiples, within the size."""

import io
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from noisystudent_core.evaluation.figures import MAX_BYTES, Group, noise_grid, training_batch

OPERATIONS = [f"Operation{letter}" for letter in "ABCDEFGHIJKLMNOP"]


def plain(colours: list[int], size: int, channels: int = 3) -> Tensor:
    """Images of one colour each: uint8 [N, C, size, size], (colour, 255 - colour, 7) where C is 3."""
    levels = torch.tensor([[colour, 255 - colour, 7][:channels] for colour in colours], dtype=torch.uint8)
    return levels[:, :, None, None].expand(-1, -1, size, size)


def page(png: bytes) -> np.ndarray:
    """Pixels of a PNG, uint8 [H, W, 3]."""
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    return np.array(image.convert("RGB"))


def place(pixels: np.ndarray, colour: int) -> tuple[int, int, int]:
    """Top, left and side of the square of a `plain` image; it is full and the only one."""
    red, green, blue = np.moveaxis(pixels, 2, 0)
    rows, columns = np.nonzero((red == colour) & (green == 255 - colour) & (blue == 7))
    top, left, side = rows.min(), columns.min(), rows.max() - rows.min() + 1
    assert len(rows) == side**2 == (columns.max() - left + 1) ** 2
    return int(top), int(left), int(side)


@pytest.mark.parametrize(("size", "side"), [(28, 84), (32, 96), (64, 64), (96, 96), (97, 80), (224, 80)])
def test_each_operation_has_a_column_and_each_level_a_row(size: int, side: int) -> None:
    rows = {f"level {row}": plain([3 * (16 * row + number) for number in range(16)], size) for row in range(4)}
    pixels = page(noise_grid("RandAugment", "google", OPERATIONS, rows))
    found = [[place(pixels, c) for c in range(48 * row, 48 * row + 48, 3)] for row in range(4)]
    assert {side for row in found for _, _, side in row} == {side}
    for row in found:  # two bands of eight, from left to right
        assert len({top for top, _, _ in row[:8]}) == len({top for top, _, _ in row[8:]}) == 1
        assert [left for _, left, _ in row[:8]] == [left for _, left, _ in row[8:]] == sorted({x for _, x, _ in row})
    for column in range(16):
        assert len({row[column][1] for row in found}) == 1
    tops = [row[0][0] for row in found] + [row[8][0] for row in found]
    assert tops == sorted(set(tops))


def test_small_images_keep_their_pixels() -> None:
    image = torch.randint(0, 256, (1, 3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image[0, :, 0] = torch.tensor([1, 2, 3], dtype=torch.uint8)[:, None]
    pixels = page(noise_grid("t", "s", ["Identity"], {"untouched": image}))
    top, left = (int(axis.min()) for axis in np.nonzero((pixels == (1, 2, 3)).all(axis=2)))
    shown = pixels[top : top + 84, left : left + 84]
    assert np.array_equal(shown, np.kron(image[0].permute(1, 2, 0).numpy(), np.ones((3, 3, 1), int)))


def test_a_batch_shows_group_under_group_and_captions_below() -> None:
    labelled = Group(heading="Labelled", images=plain([10, 20, 30], 32), captions=["cat"] * 3)
    pseudo = Group(heading="Pseudo", images=plain([40, 50], 32), captions=["cat"] * 2, notes=["97%"] * 2)
    pixels = page(training_batch("Training batch", "s", [labelled, pseudo]))
    places = [place(pixels, c) for c in (10, 20, 30, 40, 50)]
    assert [left for _, left, _ in places[:2]] == [left for _, left, _ in places[3:]]
    assert len({top for top, _, _ in places[:3]}) == 1
    assert places[3][0] > places[0][0] + 96
    for (top, left, side), lines in zip(places, (1, 1, 1, 2, 2), strict=True):
        below = pixels[top + side + 2 : top + side + 36, left : left + side].min(axis=(1, 2)) < 200  # rows with ink
        assert np.count_nonzero(np.diff(below.astype(int)) == 1) == lines


@pytest.mark.parametrize("name", ["$x_1", "$$", "a long name of a class indeed", "two\nlines", "%d {x} \\alpha", ""])
def test_any_class_name_is_drawn(name: str) -> None:
    group = Group(heading="Labelled", images=plain([10], 32, channels=1), captions=[name])
    assert page(training_batch("t", "s", [group])).shape[2] == 3


def test_a_png_stays_small_whatever_the_images() -> None:
    noise = torch.randint(0, 256, (4, 16, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    png = noise_grid("t", "s", OPERATIONS, {str(level): images for level, images in enumerate(noise)})
    assert noise.numel() > 3 * MAX_BYTES  # noise cannot be compressed: this is the worst case
    assert len(b64encode(png)) < 1_000_000


def test_figures_are_drawn_in_threads() -> None:
    def draw(colour: int) -> bytes:
        return noise_grid("t", "s", OPERATIONS, {"untouched": plain([colour] * 16, 28)})

    colours = [10, 20, 30, 40]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(draw, colours)) == [draw(colour) for colour in colours]
