"""A sheet of pairs opens as a PNG and holds what it was given."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from noisystudent_core.errors import ImageError
from noisystudent_core.evaluation.contact_sheet import INNER_GAP, TILE, Pair, contact_sheet, place

Picture = Callable[..., bytes]


def colour(red: int, green: int, size: tuple[int, int] = (40, 40)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (red, green, 0)).save(file, "PNG")
    return file.getvalue()


def sheet(pairs: list[Pair]) -> np.ndarray:
    data = contact_sheet("Title", "Subtitle", pairs)
    assert data.startswith(b"\x89PNG")
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("number", [1, 4, 5, 24])
def test_sheet_has_as_many_pairs_as_are_given(number: int) -> None:
    pairs = [Pair(left=colour(9 * n, 10), right=colour(9 * n, 200), caption=f"{n}") for n in range(number)]
    pixels = sheet(pairs)
    for n in range(number):
        x, y = place(n)
        assert tuple(pixels[y + TILE // 2, x + TILE // 2]) == (9 * n, 10, 0)
        assert tuple(pixels[y + TILE // 2, x + TILE + INNER_GAP + TILE // 2]) == (9 * n, 200, 0)
    assert (pixels[..., 2] == 0).sum() < (number + 1) * 2 * TILE**2  # of letters, and not of one pair more


def test_whole_images_are_shown_whatever_their_sides() -> None:
    pixels = sheet([Pair(left=colour(255, 0, (30, 10)), right=colour(255, 0, (400, 100)), caption="")])
    x, y = place(0)
    for left, ratio in ((x, 3), (x + TILE + INNER_GAP, 4)):
        tile = pixels[y : y + TILE, left : left + TILE]
        coloured = (tile == (255, 0, 0)).all(2)
        assert coloured.any(0).sum() == TILE and abs(coloured.any(1).sum() - TILE / ratio) <= 1


def test_photographs_stay_below_the_limit_of_an_event(picture: Picture) -> None:
    noise = [Pair(left=picture(n, size_px=200), right=picture(n + 99, size_px=200), caption="") for n in range(24)]
    data = contact_sheet("", "", noise)
    assert len(data) < 1_000_000  # the worst there is: in 256 colours, and no two pixels alike
    assert Image.open(io.BytesIO(data)).mode == "P"


def test_what_is_no_image_is_an_error() -> None:
    with pytest.raises(ImageError):
        sheet([Pair(left=colour(1, 1), right=b"words", caption="")])
