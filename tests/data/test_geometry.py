"""Warps against a pixel-by-pixel evaluation of the formulas in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from noisystudent_core.data.geometry import centre, gather_pixels, rotation, shear_x, shear_y, translation, warp
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
    kept=st.sampled_from([None, 0, 1]),  # an axis along which nothing moves
    fill=st.integers(0, 255),
)
def test_warp_equals_the_formula(
    height: int, width: int, channels: int, entries: list[float], kept: int | None, fill: int
) -> None:
    images = torch.randint(0, 256, (2, channels, height, width), dtype=torch.uint8)
    matrix = [entries[:3], entries[3:]]
    if kept is not None:
        matrix[kept] = [1.0 - kept, float(kept), 0.0]
    identity = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    warped = warp(images, torch.tensor([matrix, identity], dtype=torch.float64), fill)
    assert torch.equal(warped[0], pixel_by_pixel(images[0], matrix, fill))
    assert torch.equal(warped[1], images[1])


def test_matrices_are_the_formulas() -> None:
    values, x, y, one = torch.tensor([0.3, -2.0], dtype=torch.float64), 5.0, 7.0, 1.0
    point = torch.tensor([x, y, one], dtype=torch.float64)
    for index, v in enumerate(values.tolist()):
        assert (shear_x(values)[index] @ point).tolist() == pytest.approx([x + v * y, y])
        assert (shear_y(values)[index] @ point).tolist() == pytest.approx([x, y + v * x])
        assert (translation(values, -values)[index] @ point).tolist() == pytest.approx([x + v, y - v])
        c, s = math.cos(math.radians(v)), math.sin(math.radians(v))
        assert (rotation(values)[index] @ point).tolist() == pytest.approx([c * x - s * y, s * x + c * y])


def test_a_matrix_acts_about_its_origin() -> None:
    images = torch.randint(0, 256, (2, 3, 9, 12), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    degrees = torch.tensor([81.0, -20.0], dtype=torch.float64)
    origins = torch.tensor([[5.5, 4.0], [0.0, 8.0]], dtype=torch.float64)
    matrices = rotation(degrees)
    moved = matrices.clone()  # the same map about (0, 0): M (p - o) + o
    moved[..., 2] += origins - (matrices[..., :2] @ origins[..., None])[..., 0]
    assert centre(9, 12) == (5.5, 4.0)
    assert torch.equal(warp(images, matrices, origins=origins), warp(images, moved))


@pytest.mark.parametrize("sampling", ["bilinear", "bicubic"])
@pytest.mark.parametrize("channels", [1, 3])
def test_interpolation_is_pillows(sampling: str, channels: int) -> None:
    generator = torch.Generator().manual_seed(4)
    images = torch.randint(0, 256, (4, channels, 11, 14), generator=generator, dtype=torch.uint8)
    matrices = torch.randn(4, 2, 3, generator=generator, dtype=torch.float64) * 0.4 + torch.eye(2, 3)
    corners = torch.full((4, 2), -0.5, dtype=torch.float64)  # Pillow counts from the corner of the first pixel
    ours = warp(images, matrices, 7, sampling=sampling, origins=corners)  # pyright: ignore[reportArgumentType]
    for image, matrix, warped in zip(images, matrices, ours, strict=True):
        for channel in range(channels):
            picture = Image.fromarray(image[channel].numpy())
            theirs = picture.transform(
                picture.size,
                Image.Transform.AFFINE,
                tuple(matrix.flatten().tolist()),
                resample=Image.Resampling[sampling.upper()],
                fillcolor=7,
            )
            assert np.abs(warped[channel].numpy().astype(int) - np.asarray(theirs).astype(int)).max() <= 1


def test_gathered_pixels_outside_are_fill() -> None:
    image = torch.arange(1, 7, dtype=torch.uint8).view(1, 1, 2, 3)
    rows, columns = torch.tensor([[[0], [1], [2]]]), torch.tensor([[[-9, 0, 2, 3]]])
    assert gather_pixels(image, rows, columns, 99)[0, 0].tolist() == [[99, 1, 3, 99], [99, 4, 6, 99], [99] * 4]


@pytest.mark.parametrize("sampling", ["nearest", "grid_sample", "bilinear", "bicubic"])
def test_quarter_turn_moves_every_pixel_exactly(sampling: str) -> None:
    images = torch.randint(0, 256, (1, 3, 17, 17), dtype=torch.uint8)
    quarter = rotation(torch.tensor([90.0], dtype=torch.float64))
    turned = warp(images, quarter, sampling=sampling, origins=torch.tensor([centre(17, 17)]))  # pyright: ignore[reportArgumentType]
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
