"""The ten perturbation sequences of ImageNet-P and CIFAR-10-P, on whole batches: frame after frame, a little more each.

Hendrycks and Dietterich 2019; constants, steps and lengths are those of the authors' `make_imagenet_p.py` and
`make_cifar_p.py` at difficulty 1, the code is our own. The video codec of the released ImageNet-P is not imitated.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import center_crop

from noisystudent_core.data import geometry
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.evaluation.corruptions import intensity, weather
from noisystudent_core.evaluation.corruptions.blur import smear
from noisystudent_core.evaluation.corruptions.constants import Generator, generator_of
from noisystudent_core.evaluation.corruptions.generate import check_batch
from noisystudent_core.evaluation.corruptions.pixels import truncated
from noisystudent_core.evaluation.draws import Draws


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The constants of one generator."""

    noise: float  # standard deviation, grey levels / 255
    photons: float  # of a white pixel
    smear: tuple[float, float]  # radius and sigma of the motion blur, pixels
    smear_degrees: tuple[float, ...]
    flakes: float  # size
    fall: tuple[float, float]  # radius and sigma of the snow's motion
    added: tuple[float, ...]  # to the value of HSV
    pixels: tuple[int, ...]  # to the right
    tilt_degrees: tuple[float, ...]
    scales: tuple[float, ...]


_PLANS: Mapping[Generator, Plan] = {
    "imagenet_c": Plan(
        noise=0.03,
        photons=300,
        smear=(10, 3),
        smear_degrees=tuple((i - 30) * 4 for i in range(31)),
        flakes=3,
        fall=(14, 4),
        added=tuple((i - 15) * 0.02 for i in range(31)),
        pixels=tuple(range(-20, 21)),
        tilt_degrees=tuple(range(-15, 16)),
        scales=tuple((i * 2.5 + 40) / 100 for i in range(31)),
    ),
    "cifar10_c": Plan(
        noise=0.02,
        photons=700,
        smear=(6, 1.8),
        smear_degrees=tuple((i - 20) * 9 for i in range(21)),
        flakes=2,
        fall=(10, 2),
        added=tuple((i - 15) * 0.015 for i in range(31)),
        pixels=tuple(range(-7, 9)),
        tilt_degrees=tuple((i - 15) * 0.75 for i in range(31)),
        scales=tuple((i * 2 + 70) / 100 for i in range(31)),
    ),
}
_NUM_NOISED = 30  # frames after a clean first one


def perturbation_sequence(
    images: Tensor,
    name: str,
    seeds_B: Tensor,
    *,
    crop_px: int | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """All frames of `frames`, uint8 [T, B, 3, S, S]; the same arguments and errors."""
    return torch.stack(list(frames(images, name, seeds_B, crop_px=crop_px, generator=generator)))


def frames(
    images: Tensor,
    name: str,
    seeds_B: Tensor,
    *,
    crop_px: int | None = None,
    generator: Generator | None = None,
) -> Iterator[Tensor]:
    """Yield the frames of a sequence, uint8 [B, 3, S, S] each; their draws are a function of each image's seed alone.

    `images` uint8 [B, 3, S, S]; with `crop_px` frames are cut from the middle, after what moves pixels, so that real
    pixels and not black come in from the sides: ImageNet-P cuts 224 px from 256. Constants are CIFAR-10-P's for frames
    up to 84 px, ImageNet-P's above, unless `generator` says otherwise. Raises `ConfigurationError` for other names and
    shapes and for a crop that is larger than the image.
    """
    check_batch(images, seeds_B)
    size = images.shape[-1] if crop_px is None else crop_px
    if name not in _SEQUENCES:
        raise ConfigurationError(f"perturbation {name!r}: must be one of {', '.join(_SEQUENCES)}")
    if not 0 < size <= images.shape[-1]:
        raise ConfigurationError(f"crop_px={size}: must be 1 to {images.shape[-1]}, the images' side")
    plan = _PLANS[generator or generator_of(size)]
    if name not in _MOVING:
        images = center_crop(images, [size, size])
    for frame in _SEQUENCES[name](images, plan, seeds_B.to(images.device)):
        yield center_crop(truncated(frame), [size, size])


def _gaussian_noise(images: Tensor, plan: Plan, seeds_B: Tensor) -> Iterator[Tensor]:
    yield images
    for frame in range(1, _NUM_NOISED + 1):
        yield images + Draws(seeds_B, frame).normal(0, *images.shape[1:]).mul_(255 * plan.noise)


def _shot_noise(images: Tensor, plan: Plan, seeds_B: Tensor) -> Iterator[Tensor]:
    yield images
    for frame in range(1, _NUM_NOISED + 1):
        yield intensity.shot_noise(images, plan.photons, Draws(seeds_B, frame), "imagenet_c")


def _motion_blur(images: Tensor, plan: Plan, seeds_B: Tensor) -> Iterator[Tensor]:
    for degrees in plan.smear_degrees:
        yield smear(images.float(), *plan.smear, torch.full(seeds_B.shape, degrees, device=images.device)).round()


def _zoom_blur(images: Tensor, plan: Plan, seeds_B: Tensor) -> Iterator[Tensor]:
    yield images
    total = images.float()
    for frame in range(1, _NUM_NOISED + 1):
        total += _scaled(images, 1 + 0.004 * frame)
        yield total / (frame + 1)


def _snow(images: Tensor, plan: Plan, seeds_B: Tensor) -> Iterator[Tensor]:
    flakes = weather.fallen(images.shape[-1], (0.05, 0.3, plan.flakes, 0.5), Draws(seeds_B), trimmed=True)
    for frame in range(31):
        degrees_B = torch.full(seeds_B.shape, frame * 4 - 150, device=images.device)
        yield weather.snowed(images.float(), smear(flakes, *plan.fall, degrees_B), 0.85)


def _brightness(images: Tensor, plan: Plan, seeds_B: Tensor) -> Iterator[Tensor]:
    for added in plan.added:
        yield intensity.brightened(images.float(), added)


def _translate(images: Tensor, plan: Plan, seeds_B: Tensor) -> Iterator[Tensor]:
    for pixels in plan.pixels:
        yield _warped(images, geometry.translation(*torch.tensor([[-pixels], [0]]).double()), "nearest")


def _rotate(images: Tensor, plan: Plan, seeds_B: Tensor) -> Iterator[Tensor]:
    for degrees in range(-15, 16):  # clockwise
        yield _warped(images, geometry.rotation(torch.tensor([-degrees]).double()))


def _tilt(images: Tensor, plan: Plan, seeds_B: Tensor) -> Iterator[Tensor]:
    for degrees in plan.tilt_degrees:
        yield _projected(images, math.radians(degrees))


def _scale(images: Tensor, plan: Plan, seeds_B: Tensor) -> Iterator[Tensor]:
    for scale in plan.scales:
        yield _scaled(images, scale)


_SEQUENCES: Mapping[str, Callable[[Tensor, Plan, Tensor], Iterator[Tensor]]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": _snow,
    "brightness": _brightness,
    "translate": _translate,
    "rotate": _rotate,
    "tilt": _tilt,
    "scale": _scale,
}
_MOVING = ("zoom_blur", "translate", "rotate", "tilt", "scale")


def _scaled(images: Tensor, scale: float) -> Tensor:
    return _warped(images, torch.tensor([[[1 / scale, 0, 0], [0, 1 / scale, 0]]], dtype=torch.float64))


def _warped(images: Tensor, matrix: Tensor, sampling: geometry.Sampling = "bilinear") -> Tensor:
    """All images by one matrix [1, 2, 3] about their middle, as Pillow does; black outside."""
    origin = torch.tensor(geometry.centre(*images.shape[2:]), dtype=torch.float64)
    matrices, origins = matrix.expand(len(images), -1, -1), origin.expand(len(images), -1)
    return geometry.warp(images, matrices, sampling=sampling, origins=origins)


def _projected(images: Tensor, radians: float) -> Tensor:
    """Images turned about both axes of their plane, seen from as far away as their diagonal, as OpenCV does."""
    size = images.shape[-1]
    matrix = torch.linalg.inv(_tilt_matrix(size, radians))
    axis = torch.arange(size, dtype=torch.float64)
    places = torch.stack((*torch.meshgrid(axis, axis, indexing="xy"), torch.ones(size, size, dtype=torch.float64)))
    x, y, depth = torch.einsum("ij,jhw->ihw", matrix, places)
    grid = (torch.stack((x / depth, y / depth), dim=-1) * (2 / (size - 1)) - 1).float().to(images.device)
    grid = grid.expand(len(images), -1, -1, -1)
    return F.grid_sample(images.float(), grid, padding_mode="zeros", align_corners=True).round()


def _tilt_matrix(size: int, radians: float) -> Tensor:
    """The plane of the image at the origin, turned about y, then about x, moved back, and projected: [3, 3]."""
    c, s, f, middle = math.cos(radians), math.sin(radians), math.hypot(size, size), size / 2

    def rows(*values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)

    plane = rows((1, 0, -middle), (0, 1, -middle), (0, 0, 1), (0, 0, 1))
    about_y = rows((c, 0, -s, 0), (0, 1, 0, 0), (s, 0, c, 0), (0, 0, 0, 1))
    about_x = rows((1, 0, 0, 0), (0, c, -s, 0), (0, s, c, 0), (0, 0, 0, 1))
    back = rows((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, f), (0, 0, 0, 1))
    camera = rows((f, 0, middle, 0), (0, f, middle, 0), (0, 0, 1, 0))
    return camera @ back @ about_x @ about_y @ plane
