"""Corruptions by hand at 32 px, with CIFAR-10-C's constants, and what holds for all of them."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from noisystudent_core.errors import ConfigurationError, SourceError
from noisystudent_core.evaluation.corruptions import (
    NAMES,
    PROCEDURAL_FROST,
    Textures,
    corrupt,
    names,
    read_textures,
    separable,
    weather,
)
from noisystudent_core.evaluation.corruptions.blur import _sources, smear
from noisystudent_core.evaluation.corruptions.constants import constants_of, generator_of
from noisystudent_core.evaluation.draws import Draws

CPU = torch.device("cpu")
SEEDS = torch.arange(100, 106)


def grey(level: int, num_images: int = 1) -> Tensor:
    return torch.full((num_images, 3, 32, 32), level, dtype=torch.uint8)


def noise(num_images: int = 1, size: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(size)
    return torch.randint(0, 256, (num_images, 3, size, size), generator=generator, dtype=torch.uint8)


def one(images: Tensor, name: str, severity: int, **settings) -> Tensor:
    return corrupt(images, name, severity, torch.arange(len(images)), **settings)


@pytest.mark.parametrize("name", names(None))
def test_draws_are_a_function_of_the_images_seed(name: str) -> None:
    """Batches, their order, the number of threads and calls change nothing; other seeds do, where there are draws."""
    images, threads = noise(6), torch.get_num_threads()
    whole = corrupt(images, name, 5, SEEDS)
    parts = [corrupt(images[part], name, 5, SEEDS[part]) for part in (slice(4, 6), slice(1, 4), slice(0, 1))]
    assert torch.equal(whole, torch.cat(parts[::-1]))
    torch.set_num_threads(2 if threads == 1 else 1)
    assert torch.equal(whole, corrupt(images, name, 5, SEEDS))
    torch.set_num_threads(threads)
    assert whole.dtype == torch.uint8 and whole.shape == images.shape and not torch.equal(whole, images)
    deterministic = ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
    assert torch.equal(whole, corrupt(images, name, 5, SEEDS + 10**12)) == (name in deterministic)


@pytest.mark.parametrize("size", [8, 33, 90])
def test_any_size_is_corrupted(size: int) -> None:
    for name in names(None):
        corrupted = one(noise(2, size), name, 5)
        assert corrupted.shape == (2, 3, size, size)


def test_constants_are_chosen_by_size() -> None:
    assert [generator_of(size) for size in (28, 32, 64, 84, 85, 224, 299)] == ["cifar10_c"] * 4 + ["imagenet_c"] * 3
    assert constants_of("cifar10_c", "fog", 5) == (1.5, 1.75) and constants_of("imagenet_c", "fog", 5) == (3, 1.4)
    lengths = {g: [len(constants_of(g, "zoom_blur", s)) for s in range(1, 6)] for g in ("imagenet_c", "cifar10_c")}
    assert lengths == {"imagenet_c": [12, 16, 11, 13, 11], "cifar10_c": [7, 12, 16, 21, 26]}  # numpy's arange rounds
    theirs = one(grey(100), "brightness", 1, generator="imagenet_c")
    assert theirs.unique().tolist() == [125]


def test_gaussian_noise() -> None:
    levels = one(grey(128, 40), "gaussian_noise", 5).float()  # 0.10 x 255 = 25.5; truncation takes half a level
    assert float(levels.mean()) == pytest.approx(127.5, abs=0.3)
    assert float(levels.std()) == pytest.approx(25.5, rel=0.01)


def test_shot_noise_is_poissons() -> None:
    counts = one(grey(51, 20), "shot_noise", 5).float()  # 50 photons x 0.2: 10 on average
    values, found = counts.unique(return_counts=True)
    expected = {math.trunc(k / 50 * 255): math.exp(-10) * 10**k / math.factorial(k) for k in range(50)}
    assert set(values.tolist()) <= set(expected)
    for value, number in zip(values.tolist(), found.tolist(), strict=True):
        spread = math.sqrt(expected[value] / counts.numel())
        assert number / counts.numel() == pytest.approx(expected[value], abs=5 * spread)
    assert one(grey(0), "shot_noise", 3).max() == 0


def test_impulse_noise() -> None:
    levels = one(grey(100, 40), "impulse_noise", 5)  # 7%, half of them white
    shares = [float((levels == value).float().mean()) for value in (0, 100, 255)]
    assert shares == pytest.approx([0.035, 0.93, 0.035], abs=0.002)


def test_defocus_blur() -> None:
    """At severity 1 the disk is one pixel, smoothed by exp(-x^2 / 2 / 0.4^2) = 0.0439 beside 1."""
    images = grey(0)
    images[:, :, 16, 16] = 255
    tap = math.exp(-1 / 0.32)
    taps = np.array([tap, 1, tap]) / (1 + 2 * tap)
    expected = np.trunc(255 * np.outer(taps, taps) + 1e-3).astype(np.uint8)
    assert np.array_equal(one(images, "defocus_blur", 1)[0, 0, 15:18, 15:18].numpy(), expected)


def test_glass_blur_copies_pixels_from_above_and_left() -> None:
    """At severity 1 nothing is blurred; a pixel reads one at -1 or 0 in both directions, beyond a margin."""
    axis = torch.arange(32, dtype=torch.uint8) * 8
    images = torch.stack((axis[:, None].expand(32, 32), axis.expand(32, 32), torch.zeros(32, 32)))[None].byte()
    moved = (images.int() - one(images, "glass_blur", 1).int())[0] // 8
    assert moved[:2].unique().tolist() == [0, 1] and not moved[:, :2].any() and not moved[:, :, :2].any()
    assert [float(moved[axis, 2:, 2:].float().mean()) for axis in (0, 1)] == pytest.approx([0.5, 0.5], abs=0.06)


@pytest.mark.parametrize("reach", [1, 2, 4])
def test_glass_blur_follows_the_published_loop(reach: int) -> None:
    """Its swap copies, from the last pixel to the first: values are handed on along chains."""
    size = 40
    bits = Draws(torch.tensor([5])).bits(0, size * size)
    copied = np.arange(size * size).reshape(size, size)
    moves = [
        ((bits.view(size, size).numpy().astype(np.int64) >> s & 0xFFFF) * 2 * reach >> 16) - reach for s in (0, 16)
    ]
    for h in range(size - reach, reach, -1):
        for w in range(size - reach, reach, -1):
            copied[h, w] = copied[h + moves[1][h, w], w + moves[0][h, w]]
    assert np.array_equal(_sources(bits, size, reach)[0].view(size, size).numpy(), copied)


def test_motion_blur_smears_against_its_direction() -> None:
    images = torch.zeros(3, 1, 32, 32)
    images[:, :, 16, 16] = 1
    weights = np.exp(-(np.arange(3) ** 2) / 2) / np.exp(-(np.arange(3) ** 2) / 2).sum()
    right, diagonal, down = smear(images, 1, 1, torch.tensor([0.0, 45.0, 90.0]))[:, 0].numpy()
    assert right[16, [16, 15, 14]] == pytest.approx(weights) and down[[16, 15, 14], 16] == pytest.approx(weights)
    assert diagonal[[16, 15], [16, 15]] == pytest.approx([weights[0], weights[1] + weights[2]])  # nearest pixels
    assert smear(torch.ones(1, 1, 32, 32), 9, 2.5, torch.tensor([30.0])).numpy() == pytest.approx(1)  # borders too


def test_zoom_takes_the_middle() -> None:
    third = 1 / 3
    places = [[0, 1, 0, 0], [0, 1 - third, third, 0], [0, third, 1 - third, 0], [0, 0, 1, 0]]
    assert separable.zoom(4, 2.0, centred=True) == pytest.approx(np.array(places))
    assert one(grey(77), "zoom_blur", 5).unique().tolist() == [77]


@pytest.mark.parametrize("generator", ["cifar10_c", "imagenet_c"])
def test_few_products_are_the_mean_of_all_zooms(generator) -> None:
    image = noise(1).float()[0, 0].double().numpy()
    factors = constants_of(generator, "zoom_blur", 5)
    zooms = [separable.zoom(32, factor, True) for factor in factors]
    mean = (image + sum(zoom @ image @ zoom.T for zoom in zooms)) / (len(factors) + 1)
    few = separable.mean_zoom(32, factors, True, CPU)
    assert few(torch.from_numpy(image).float()).numpy() == pytest.approx(mean, abs=0.02)
    assert few.left.shape[1] // 32 <= 13 < len(factors) or generator == "imagenet_c"


def test_snow_whitens_and_falls_twice() -> None:
    flakes = torch.zeros(1, 1, 32, 32)
    flakes[0, 0, 3, 5] = 60
    snowed = weather.snowed(grey(100).float(), flakes, 0.9)  # white: 100 x 1.5 + 127.5, a tenth of it
    assert snowed[0, 0, 0, 0] == pytest.approx(117.75)
    assert [float(snowed[0, 2, y, x]) for y, x in ((3, 5), (28, 26))] == pytest.approx([177.75, 177.75])


def test_fog_scales_back_by_the_brightest_value() -> None:
    """The fractal goes from 0 to 1 over the 32 x 32 pixels, each of which is drawn once."""
    foggy = one(grey(255), "fog", 1)  # 0.2 thick: from 255 / 1.2 to 255
    assert (int(foggy.min()), int(foggy.max())) == (212, 255)
    assert len(one(grey(255), "fog", 5).unique()) > 50
    assert int(one(grey(0), "fog", 5).max()) == 0  # the published one divides by no light as well


def test_frost_blends_a_crop_of_a_texture() -> None:
    """Textures are shrunk to a fifth; crops are whole windows of them."""
    y, x = torch.meshgrid(torch.arange(300), torch.arange(400), indexing="ij")
    texture = torch.stack((y // 5 * 4, x // 5 * 3, torch.full_like(x, 100))).to(torch.uint8)  # in steps of a pixel
    icy = corrupt(grey(50, 6), "frost", 3, SEEDS, frost_textures=Textures([texture])).int()  # 0.9 and 0.4
    assert icy[:, 2].unique().tolist() == [85]
    rows = ((icy[:, 0] - 45) / 1.6).ceil()[:, :, 0]
    assert torch.equal(rows - rows[:, :1], torch.arange(32.0).expand(6, -1)) and len(rows[:, 0].unique()) > 2
    assert rows[:, 0].min() >= 0 and rows[:, 0].max() < 60 - 32


def test_frost_without_textures_has_its_own_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r'"frost" with 0 textures: .*frost \(procedural\)'):
        one(grey(50), "frost", 1)
    assert PROCEDURAL_FROST in names(None) and "frost" not in names(None)
    with pytest.raises(SourceError, match="0 pictures of frost"):
        read_textures(str(tmp_path))
    for number in range(6):
        Image.new("RGB", (300, 300), (number, 0, 0)).save(tmp_path / f"frost{number}.png")
    textures = read_textures(str(tmp_path))
    assert names(textures) == NAMES
    reds = corrupt(grey(0, 64), "frost", 5, torch.arange(64), frost_textures=textures, generator="imagenet_c")[:, 0]
    assert reds.unique().tolist() == [math.trunc(0.75 * red) for red in (0, 2, 3, 4)]  # never the sixth; 0.75 is 0


def test_brightness_keeps_hue_and_saturation() -> None:
    images = torch.tensor([[100, 50, 0], [0, 0, 0], [255, 51, 102]], dtype=torch.uint8)[:, :, None, None]
    bright = one(images.expand(-1, -1, 32, 32), "brightness", 1)[:, :, 0, 0]  # 12.75 more
    assert bright.tolist() == [[112, 56, 0], [12, 12, 12], [255, 51, 102]]


def test_contrast_moves_towards_the_channels_mean() -> None:
    images = grey(0)
    images[:, :, :16], images[:, 2] = 200, 40
    assert [one(images, "contrast", 1)[0, channel].unique().tolist() for channel in (0, 2)] == [[25, 175], [40]]


def test_elastic_transform_at_severity_1_is_affine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Corners that all move by (2.56, 2.56) take the image with them; borders are mirrored."""
    monkeypatch.setattr(Draws, "uniform", lambda self, stream, *shape: torch.ones(1, *shape))
    ramp = (torch.arange(32) * 7).to(torch.uint8).expand(1, 3, 32, 32)
    moved = one(ramp, "elastic_transform", 1)[0, 0, 20]
    places = (torch.arange(32) - 0.08 * 32).abs()
    assert torch.equal(moved, (places * 7 + 1e-3).to(torch.uint8))


def test_elastic_transform_displaces_by_a_smooth_field() -> None:
    assert one(grey(90), "elastic_transform", 5).unique().tolist() == [90]
    images = noise(2)
    assert (one(images, "elastic_transform", 5).int() - images.int()).abs().float().mean() > 10


@pytest.mark.parametrize("severity", range(1, 6))
def test_pixelate_is_pillows(severity: int) -> None:
    images = noise()
    side = int(32 * constants_of("cifar10_c", "pixelate", severity))
    picture = Image.fromarray(images[0].permute(1, 2, 0).numpy())
    expected = picture.resize((side, side), Image.Resampling.BOX).resize((32, 32), Image.Resampling.BOX)
    assert np.array_equal(one(images, "pixelate", severity)[0].permute(1, 2, 0).numpy(), np.asarray(expected))


def test_jpeg_compression_is_libjpegs() -> None:
    images, file = noise(), io.BytesIO()
    Image.fromarray(images[0].permute(1, 2, 0).numpy()).save(file, "JPEG", quality=40)
    expected = np.asarray(Image.open(file)).astype(int)
    found = one(images, "jpeg_compression", 5)[0].permute(1, 2, 0).numpy()
    assert np.abs(found - expected).max() <= 2


def test_what_cannot_be_corrupted_is_told() -> None:
    for wrong in (grey(0).float(), grey(0)[0], grey(0)[:, :1], grey(0)[:, :, :20], torch.zeros(1, 3, 7, 7).byte()):
        with pytest.raises(ConfigurationError, match=r"uint8 \[B, 3, S, S\], S >= 8"):
            corrupt(wrong, "fog", 1, torch.zeros(1, dtype=torch.int64))
    for seeds in (torch.zeros(2, dtype=torch.int64), torch.zeros(1)):
        with pytest.raises(ConfigurationError, match="one per image"):
            corrupt(grey(0), "fog", 1, seeds)
    for name, severity, generator in (("mist", 1, None), ("fog", 0, None), ("fog", 6, None), ("fog", 1, "mnist_c")):
        with pytest.raises(ConfigurationError, match="must be one of"):
            one(grey(0), name, severity, generator=generator)


def test_no_images_are_no_error() -> None:
    assert corrupt(grey(0)[:0], "fog", 1, torch.zeros(0, dtype=torch.int64)).shape == (0, 3, 32, 32)
