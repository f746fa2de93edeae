"""The constants of the published generators, severities 1 to 5.

`imagenet_c`: 224 px. Hendrycks and Dietterich 2019 as the package `imagecorruptions` 1.1.2 generates it, the one
published generator that runs without ImageMagick. Its elastic transform, the scale of its frost and the corner that its
zooms are cut at are its own; everything else is the authors' `make_imagenet_c.py`. `cifar10_c`: 32 px, the authors'
`make_cifar_c.py`.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from noisystudent_core.errors import ConfigurationError

Generator = Literal["imagenet_c", "cifar10_c"]

NAMES = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
SEVERITIES = (1, 2, 3, 4, 5)
PROCEDURAL_FROST = "frost (procedural)"

_SMALL_PX = 84  # the geometric mean of 32 and 224: what is smaller is more like CIFAR-10-C


def _steps(stops: tuple[float, ...], steps: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
    """numpy's own, whose rounding decides on the last factor."""
    return tuple(tuple(np.arange(1, stop, step).tolist()) for stop, step in zip(stops, steps, strict=True))


_IMAGENET_C: Mapping[str, tuple[Any, ...]] = {
    "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),  # standard deviation, grey levels / 255
    "shot_noise": (60, 25, 12, 5, 3),  # photons of a white pixel
    "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),  # share of values, half of them white
    "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),  # radius, its smoothing: pixels
    "glass_blur": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),  # sigma, reach, rounds
    "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),  # radius, sigma: pixels
    "zoom_blur": _steps((1.11, 1.16, 1.21, 1.26, 1.31), (0.01, 0.01, 0.02, 0.02, 0.03)),  # factors
    # mean and standard deviation of the flakes, their size, threshold, radius and sigma of the fall, share of the image
    "snow": (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
    "frost": ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),  # weights of image and texture
    "fog": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),  # thickness, decay of the fractal
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),  # added to the value of HSV
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),  # factor
    # amplitude of the displacement before smoothing, sigma, reach of the affine map's corners: shares of the side
    "elastic_transform": tuple((0.005 * 250 * alpha, 0.01, 0.0) for alpha in (0.05, 0.065, 0.085, 0.1, 0.12)),
    "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),  # factor of the side
    "jpeg_compression": (25, 18, 15, 10, 7),  # quality
}
_CIFAR10_C: Mapping[str, tuple[Any, ...]] = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "shot_noise": (500, 250, 100, 75, 50),
    "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    "zoom_blur": _steps((1.06, 1.11, 1.16, 1.21, 1.26), (0.01,) * 5),
    "snow": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    "frost": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "elastic_transform": ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
    "jpeg_compression": (80, 65, 58, 50, 40),
}
_OF: Mapping[Generator, Mapping[str, tuple[Any, ...]]] = {"imagenet_c": _IMAGENET_C, "cifar10_c": _CIFAR10_C}


def generator_of(size_px: int) -> Generator:
    """Whose constants suit images of this side: 32 px are CIFAR-10-C's, 224 px ImageNet-C's."""
    return "cifar10_c" if size_px <= _SMALL_PX else "imagenet_c"


def constants_of(generator: Generator, name: str, severity: int) -> Any:
    """What the published generator puts in; raises `ConfigurationError` for another name, severity or generator."""
    if generator not in _OF:
        raise ConfigurationError(f"generator={generator!r}: must be one of {', '.join(_OF)}; None chooses by size")
    if name not in NAMES and name != PROCEDURAL_FROST:
        raise ConfigurationError(f"corruption {name!r}: must be one of {', '.join(NAMES)}, or {PROCEDURAL_FROST!r}")
    if severity not in SEVERITIES:
        raise ConfigurationError(f"severity={severity}: must be one of 1 (mild) to 5 (strong)")
    return _OF[generator]["frost" if name == PROCEDURAL_FROST else name][severity - 1]
