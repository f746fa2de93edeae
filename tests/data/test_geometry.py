"""Warps against a pixel-by-pixel evaluation of the formulas in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from noisystudent_core.data.geometry import rotation, shear_x, shear_y, translation, warp
from noisystudent_core.errors import ConfigurationError


def pixel_by_pixel(image: Tensor, matrix: list[list[float]], fill: int) -> Tensor:
    (a, b, c), (d, e, f) = matrix
    height, width = image.shape[1:]
    out = torch.full_like(image, fill)
    for y in range(height):
        for x in range(width):
            column, row = (math.copysign(math.floor(abs(v) + 0.5), v) for v in (a * x + b * y + c, d * x + e * y + f))
            if 0 <= column < width and 0 <= row < height:
                out[:, y, x] = image[:, int(row), int(column)]
    return out


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    channels=st.sampled_from([1, 3]),
    # halves and quarters meet ties, which round away from zero
    entries=st.lists(st.integers(-8, 8).map(lambda n: n / 4) | st.floats(-2, 2), min_size=6, max_size=6),
    fill=st.integers(0, 255),
)
def test_warp_equals_the_formula(height: int, width: int, channels: int, entries: list[float], fill: int) -> None:
    images = torch.randint(0, 256, (2, channels, height, width), dtype=torch.uint8)
    matrix = [entries[:3], entries[3:]]
    identity = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    warped = warp(images, torch.tensor([matrix, identity], dtype=torch.float64), fill)
    assert torch.equal(warped[0], pixel_by_pixel(images[0], matrix, fill))
    assert torch.equal(warped[1], images[1])


def test_matrices_are_the_formulas() -> None:
    values, x, y, one = torch.tensor([0.3, -2.0], dtype=torch.float64), 5.0, 7.0, 1.0
    point = torch.tensor([x, y, one], dtype=torch.float64)
    for index, v in enumerate(values.tolist()):
        assert (shear_x(values)[index] @ point).tolist() == pytest.approx([x + v * y, y])
        assert (shear_y(values, origin_x=-0.5)[index] @ point).tolist() == pytest.approx([x, y + v * (x + 0.5)])
        assert (translation(values, -values)[index] @ point).tolist() == pytest.approx([x + v, y - v])
        c, s = math.cos(math.radians(v)), math.sin(math.radians(v))
        # about the centre (5.5, 3.5) of an 8 x 12 image
        expected = [c * (x - 5.5) - s * (y - 3.5) + 5.5, s * (x - 5.5) + c * (y - 3.5) + 3.5]
        assert (rotation(values, 8, 12)[index] @ point).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("rounding", ["half_away", "grid_sample"])
def test_quarter_turn_moves_every_pixel_exactly(rounding: str) -> None:
    images = torch.randint(0, 256, (1, 3, 17, 17), dtype=torch.uint8)
    turned = warp(images, rotation(torch.tensor([90.0], dtype=torch.float64), 17, 17), rounding=rounding)  # pyright: ignore[reportArgumentType]
    assert torch.equal(turned, torch.rot90(images, 1, (2, 3)))


def test_shift_past_the_edge_is_all_fill() -> None:
    far = translation(torch.tensor([1e12]), torch.tensor([0.0]))
    assert (warp(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), far, 128) == 128).all()


@pytest.mark.parametrize(
    ("images", "matrices"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, 2, 3)),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(3, 2, 3)),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(1, 2, 3)),
    ],
)
def test_bad_shapes(images: Tensor, matrices: Tensor) -> None:
    with pytest.raises(ConfigurationError, match=r"must be torch.uint8 \[B, C, H, W\] and \[B, 2, 3\]"):
        warp(images, matrices)
