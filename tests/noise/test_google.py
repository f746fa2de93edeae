"""The `google` dialect equals its oracle, every operation, and the numbers that the method states for it."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from noisystudent_core.noise.randaugment import apply_op
from tests.noise.google_oracle import Centre, oracle, undecided

INTEGER = ("Equalize", "Invert", "Posterize", "Solarize", "SolarizeAdd")
BLENDS = ("Color", "Contrast", "Brightness", "Sharpness")
MOVES = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
EXACT = (*INTEGER, *MOVES, "Cutout")
NAMES = ("AutoContrast", *BLENDS, *EXACT)
LEVELS = (0, 1, 2, 3, 5, 9, 10, 12.5, 18, 20, 23, 24, 27)
SIZES = ((8, 8), (9, 13), (32, 32), (48, 64))  # height, width
FAINT = 0.1  # blend factor of level 0


@cache
def images(channels: int, height: int, width: int) -> torch.Tensor:
    """[5, C, H, W] uint8: all greys, few greys, two levels, a smooth ramp, flat."""
    random = np.random.default_rng(height * width + channels)
    shape = (channels, height, width)
    ramp = np.linspace(0, 255, height * width).reshape(1, height, width)
    tints = np.array([1.0, 0.7, 0.3])[:channels].reshape(-1, 1, 1)
    kinds = (
        random.integers(0, 256, shape),
        random.integers(90, 140, shape),
        np.where(random.random(shape) < 0.5, 60, 200),
        ramp * tints,
        np.full(shape, 77),
    )
    return torch.from_numpy(np.stack(kinds).astype(np.uint8))


def applied(batch: torch.Tensor, name: str, level: float, **more) -> np.ndarray:
    result = apply_op(batch, name, level, dialect="google", **more)
    assert result.dtype == torch.uint8 and result.shape == batch.shape
    return result.numpy()


def farthest(
    batch: torch.Tensor, name: str, level: float, sign: int = 1, centre: Centre | None = None, **constants
) -> int:
    """The largest distance between the operation and its oracle, in grey levels."""
    expected = np.stack([oracle(image, name, level, sign, centre=centre, **constants) for image in batch.numpy()])
    centres = None if centre is None else torch.tensor([centre] * len(batch))
    distances = np.abs(applied(batch, name, level, sign=sign, centres=centres, **constants).astype(int) - expected)
    if name == "Rotate":
        height, width = batch.shape[-2:]
        distances[:, :, undecided(name, level, sign, height, width)] = 0
    return int(distances.max())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_oracle_within_one_grey_level_and_geometry_exactly(name: str, channels: int) -> None:
    distances = {
        (level, sign, size): farthest(images(channels, *size), name, level, sign)
        for level in LEVELS
        for sign in (1, -1)
        for size in SIZES
    }
    assert {case: far for case, far in distances.items() if far > (name not in EXACT)} == {}


def test_only_30_and_60_degrees_leave_pixels_undecided() -> None:
    numbers = {level: sum(int(undecided("Rotate", level, 1, *size).sum()) for size in SIZES) for level in LEVELS}
    assert {level for level, number in numbers.items() if number} == {10, 20}
    assert max(numbers.values()) <= 10


@pytest.mark.parametrize("translate_const", [4, 10, 250])
@pytest.mark.parametrize("name", ["TranslateX", "TranslateY"])
def test_translation_scales_with_its_constant(name: str, translate_const: int) -> None:
    batch = images(3, 32, 32)
    for level in LEVELS:
        for sign in (1, -1):
            assert farthest(batch, name, level, sign, translate_const=translate_const) == 0


@pytest.mark.parametrize("cutout_const", [4, 8, 40])
@pytest.mark.parametrize("centre", [(0, 0), (0, 12), (8, 0), (8, 12), (4, 7), (-3, 5), (11, 14), (-50, 60)])
def test_cutout_is_cut_off_at_the_edges(centre: Centre, cutout_const: int) -> None:
    batch = images(3, 9, 13)
    assert all(farthest(batch, "Cutout", level, 1, centre, cutout_const=cutout_const) == 0 for level in LEVELS)


def test_each_image_has_its_own_cutout_centre() -> None:
    batch = images(1, 32, 32)
    centres = torch.tensor([[0, 0], [31, 31], [3, 30], [16, 5], [10, 10]])
    result = applied(batch, "Cutout", 10, cutout_const=4, centres=centres)
    for image, centre, cut in zip(batch.numpy(), centres.tolist(), result, strict=True):
        np.testing.assert_array_equal(cut, oracle(image, "Cutout", 10, cutout_const=4, centre=tuple(centre)))


@settings(deadline=None, max_examples=150)
@given(
    name=st.sampled_from([name for name in NAMES if name != "Color"]),  # see its oracle: factor 36 blows rounding up
    level=st.floats(0, 200),
    sign=st.sampled_from([-1, 1]),
    height=st.integers(3, 20),
    width=st.integers(3, 20),
    channels=st.sampled_from([1, 3]),
)
def test_no_level_is_too_high(name: str, level: float, sign: int, height: int, width: int, channels: int) -> None:
    assert farthest(images(channels, height, width), name, level, sign) <= (name not in EXACT)


# --- magnitude 27 ---


def ramp() -> torch.Tensor:
    """[1, 1, 16, 16] uint8: each grey once, value = 16 row + column."""
    return torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)


def values(name: str, level: float) -> list[int]:
    """What becomes of each grey."""
    return applied(ramp(), name, level).ravel().tolist()


def dot(height: int, width: int, row: int, column: int) -> torch.Tensor:
    batch = torch.zeros(1, 1, height, width, dtype=torch.uint8)
    batch[0, 0, row, column] = 255
    return batch


def where(result: np.ndarray) -> list[tuple[int, int]]:
    """(row, column) of the white pixels."""
    return [(int(row), int(column)) for row, column in np.argwhere(result[0, 0] == 255)]


def test_27_posterizes_to_one_bit() -> None:
    assert values("Posterize", 27) == [0] * 128 + [128] * 128


def test_27_solarizes_from_179() -> None:
    assert values("Solarize", 27) == [*range(179), *(255 - grey for grey in range(179, 256))]


def test_27_adds_297_below_128() -> None:
    assert values("SolarizeAdd", 27) == [255] * 128 + list(range(128, 256))


def test_27_blends_by_4_96() -> None:
    assert values("Brightness", 27) == [min(255, grey * 496 // 100) for grey in range(256)]
    contrast = values("Contrast", 27)  # towards 16 x 16 / 256 = 1
    assert contrast[0] == 0 and contrast[1] == 1
    assert all(abs(contrast[grey] - (1 + 4.96 * (grey - 1))) <= 1 for grey in range(1, 52))
    assert set(contrast[53:]) == {255}


@pytest.mark.parametrize(("height", "width", "towards"), [(64, 64, 16), (200, 300, 234), (300, 300, 255)])
def test_contrast_blends_towards_the_number_of_pixels(height: int, width: int, towards: int) -> None:
    batch = torch.full((1, 3, height, width), 100, dtype=torch.uint8)
    assert set(applied(batch, "Contrast", 0).ravel()) == {int(towards + FAINT * (100 - towards))}


def test_27_turns_by_81_degrees() -> None:
    # a pixel 60 right of the middle comes from there: by 81 degrees it is seen 60 sin 81 = 59 up, 60 cos 81 = 9 right
    assert where(applied(dot(201, 201, 100, 160), "Rotate", 27, sign=1)) == [(100 - 59, 100 + 9)]
    assert where(applied(dot(201, 201, 100, 160), "Rotate", 27, sign=-1)) == [(100 + 59, 100 + 9)]


def test_27_shears_by_0_81() -> None:
    # 0.81 x 51 = 41.31
    assert where(applied(dot(201, 201, 51, 150), "ShearX", 27, sign=1)) == [(51, 150 - 41)]
    assert where(applied(dot(201, 201, 51, 150), "ShearX", 27, sign=-1)) == [(51, 150 + 41)]
    assert where(applied(dot(201, 201, 150, 51), "ShearY", 27, sign=1)) == [(150 - 41, 51)]
    assert where(applied(dot(201, 201, 150, 51), "ShearY", 27, sign=-1)) == [(150 + 41, 51)]


def test_27_translates_by_270_pixels() -> None:
    assert where(applied(dot(4, 300, 2, 290), "TranslateX", 27, sign=1)) == [(2, 20)]
    assert where(applied(dot(4, 300, 2, 20), "TranslateX", 27, sign=-1)) == [(2, 290)]
    assert where(applied(dot(300, 4, 290, 2), "TranslateY", 27, sign=1)) == [(20, 2)]
    assert (applied(images(3, 32, 32), "TranslateX", 27) == 128).all()


def test_27_cuts_out_216_by_216_pixels() -> None:
    cut = applied(torch.zeros(1, 3, 300, 400, dtype=torch.uint8), "Cutout", 27)[0]
    expected = np.zeros((3, 300, 400), np.uint8)
    expected[:, 150 - 108 : 150 + 108, 200 - 108 : 200 + 108] = 128
    np.testing.assert_array_equal(cut, expected)


# --- other stated facts ---


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_posterize_leaves_one_bit_where_none_is_left(level: int) -> None:
    assert values("Posterize", level) == [0] * 128 + [128] * 128


def test_posterize_by_eight_bits_leaves_the_image() -> None:
    assert values("Posterize", 20) == list(range(256))


@pytest.mark.parametrize("level", [0, 10, 20])
def test_a_threshold_that_wraps_to_zero_inverts_all(level: int) -> None:
    assert values("Solarize", level) == list(range(255, -1, -1))


@pytest.mark.parametrize("name", [*MOVES, "Cutout", "SolarizeAdd"])
def test_level_zero_does_nothing(name: str) -> None:
    batch = images(3, 9, 13)
    np.testing.assert_array_equal(applied(batch, name, 0), batch.numpy())


def test_level_zero_leaves_a_tenth_of_colour_contrast_and_brightness_and_one_bit() -> None:
    assert values("Brightness", 0) == [grey // 10 for grey in range(256)]
    assert values("Contrast", 0) == [int(1 + FAINT * (grey - 1)) for grey in range(256)]
    assert values("Posterize", 0) == [0] * 128 + [128] * 128
    red = torch.tensor([200, 0, 0], dtype=torch.uint8).reshape(1, 3, 1, 1).expand(1, 3, 4, 4)
    # grey 200 x .2989 = 59
    assert applied(red, "Color", 0)[0, :, 0, 0].tolist() == pytest.approx([59 + 14.1, 59 - 5.9, 59 - 5.9], abs=1)


@pytest.mark.parametrize("name", BLENDS)
def test_level_five_is_the_image_itself(name: str) -> None:
    batch = images(3, 9, 13)
    np.testing.assert_array_equal(applied(batch, name, 5), batch.numpy())


@pytest.mark.parametrize("level", LEVELS)
def test_one_channel_has_no_colour_to_change(level: float) -> None:
    batch = images(1, 9, 13)
    np.testing.assert_array_equal(applied(batch, "Color", level), batch.numpy())


@pytest.mark.parametrize("name", ["Sharpness", "AutoContrast", "Equalize"])
def test_flat_images_stay_at_any_grey(name: str) -> None:
    greys = torch.arange(256, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 3, 6, 6)
    np.testing.assert_array_equal(applied(greys, name, 27), greys.numpy())
