"""The `google` dialect of RandAugment once more, one image at a time, in plain numpy and double precision.

Written from the description of the published TF1 code alone, so that it shares nothing with `noisystudent_core.noise`.
A level is divided by 10 first, as there: int(2.3 x 110) is 252, not 253.

TF computes in float32, which moves a result that is an integer, or nearly one, before its fraction is dropped: by one
grey level, except below a blend factor f > 1, which turns one level of the degenerate image into f - 1. That happens in
two places, and differs there between builds of TF, so that the exact value is taken here:
- the grey of 237 (compiled by XLA: 242) of the 2^24 colours (Color);
- the smoothed image where 13 divides the kernel's sum, 53 (without oneDNN 52, by XLA 15) of the 256 flat greys among
  them (Sharpness).
"""

from collections.abc import Callable

import numpy as np

FILL = 128
Centre = tuple[int, int]  # row, column
Warp = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def oracle(
    image_CHW: np.ndarray,
    name: str,
    level: float,
    sign: int = 1,
    translate_const: float = 100,
    cutout_const: float = 40,
    centre: Centre | None = None,
) -> np.ndarray:
    """One operation on one image.

    `image_CHW`: uint8, C of 1 or 3; so is the result. `level`: any number >= 0, 10 is nominal. `sign`: -1 or 1, for
    Rotate, Shear and Translate alone. `translate_const`, `cutout_const`: pixels at level 10. `centre`: of Cutout,
    default (H // 2, W // 2).
    """
    height, width = image_CHW.shape[1:]
    if name in COLOURS:
        return COLOURS[name](image_CHW)
    if name in LEVELLED:
        return LEVELLED[name](image_CHW, level)
    if name in DEGENERATES:
        return blended(DEGENERATES[name](image_CHW), image_CHW, level / 10 * 1.8 + 0.1)
    if name == "Cutout":
        return cutout(image_CHW, int(level / 10 * cutout_const), centre or (height // 2, width // 2))
    return warped(image_CHW, warp(name, level, sign, translate_const, height, width))


# --- no argument ---


def autocontrast(image_CHW: np.ndarray) -> np.ndarray:
    """Each channel is stretched to 0..255; a flat one stays."""
    result = image_CHW.copy()
    for channel, values in enumerate(image_CHW.astype(np.int64)):
        low, high = values.min(), values.max()
        if high > low:
            result[channel] = (values - low) * 255 // (high - low)
    return result


def equalize(image_CHW: np.ndarray) -> np.ndarray:
    """Each channel's histogram is made even by PIL's integer rule; with a step of 0 the channel stays."""
    result = image_CHW.copy()
    for channel, values in enumerate(image_CHW):
        counts = np.bincount(values.ravel(), minlength=256)
        step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
        if step > 0:
            below = np.cumsum(counts) - counts
            result[channel] = np.minimum((below + step // 2) // step, 255).astype(np.uint8)[values]
    return result


def invert(image_CHW: np.ndarray) -> np.ndarray:
    return 255 - image_CHW


COLOURS = {"AutoContrast": autocontrast, "Equalize": equalize, "Invert": invert}


# --- bits and thresholds ---


def posterize(image_CHW: np.ndarray, level: float) -> np.ndarray:
    """The shift 8 - bits wraps as uint8, and TF's shift operations clamp theirs to 7."""
    shift = min((8 - int(level / 10 * 4)) % 256, 7)
    return (image_CHW >> shift) << shift


def solarize(image_CHW: np.ndarray, level: float) -> np.ndarray:
    threshold = int(level / 10 * 256) % 256
    return np.where(image_CHW < threshold, image_CHW, 255 - image_CHW)


def solarize_add(image_CHW: np.ndarray, level: float) -> np.ndarray:
    brighter = np.minimum(image_CHW.astype(np.int64) + int(level / 10 * 110), 255).astype(np.uint8)
    return np.where(image_CHW < 128, brighter, image_CHW)


LEVELLED = {"Posterize": posterize, "Solarize": solarize, "SolarizeAdd": solarize_add}


# --- blends with a degenerate image ---


def grey(image_CHW: np.ndarray) -> np.ndarray:
    """ITU-R 601's weights on colours of 0..1, and back by 255.5 with the fraction dropped."""
    if len(image_CHW) == 1:
        return image_CHW
    weights = np.array([0.2989, 0.5870, 0.1140])
    value_HW = np.tensordot(weights, image_CHW / 255, axes=1) * 255.5
    return np.broadcast_to(value_HW.astype(np.uint8), image_CHW.shape)


def number_of_pixels(image_CHW: np.ndarray) -> np.ndarray:
    """The reference takes the mean of the histogram's counts for the mean of the grey levels."""
    return np.full_like(image_CHW, min(255, image_CHW[0].size // 256))


def smoothed(image_CHW: np.ndarray) -> np.ndarray:
    """A 3x3 mean of weight 5 in the middle, in integers; the border stays."""
    height, width = image_CHW.shape[1:]
    pixels = image_CHW.astype(np.int64)
    total = 4 * pixels[:, 1:-1, 1:-1]
    for row in range(3):
        for column in range(3):
            total = total + pixels[:, row : row + height - 2, column : column + width - 2]
    result = image_CHW.copy()
    result[:, 1:-1, 1:-1] = total // 13
    return result


def blended(degenerate: np.ndarray, image_CHW: np.ndarray, factor: float) -> np.ndarray:
    """Factor 0 gives the degenerate image, 1 the image, more goes beyond it. The fraction is dropped."""
    start = degenerate.astype(np.float64)
    value = start + factor * (image_CHW - start)
    if not 0 < factor < 1:
        value = value.clip(0, 255)
    return value.astype(np.uint8)


DEGENERATES = {"Color": grey, "Contrast": number_of_pixels, "Brightness": np.zeros_like, "Sharpness": smoothed}


# --- geometry ---


def cutout(image_CHW: np.ndarray, half_size: int, centre: Centre) -> np.ndarray:
    rows, columns = (slice(max(0, middle - half_size), max(0, middle + half_size)) for middle in centre)
    result = image_CHW.copy()
    result[:, rows, columns] = FILL
    return result


def warp(name: str, level: float, sign: int, translate_const: float, height: int, width: int) -> Warp:
    """The map from the output's (x, y) to the input's."""
    shear, move = sign * (level / 10 * 0.3), sign * (level / 10 * translate_const)
    angle = np.deg2rad(sign * (level / 10 * 30))
    cos, sin = np.cos(angle), np.sin(angle)
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2

    def turned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y = x - middle_x, y - middle_y
        return cos * x - sin * y + middle_x, sin * x + cos * y + middle_y

    warps: dict[str, Warp] = {
        "ShearX": lambda x, y: (x + shear * y, y),
        "ShearY": lambda x, y: (x, y + shear * x),
        "TranslateX": lambda x, y: (x + move, y),
        "TranslateY": lambda x, y: (x, y + move),
        "Rotate": turned,
    }
    return warps[name]


def undecided(name: str, level: float, sign: int, height: int, width: int) -> np.ndarray:
    """bool [H, W]: the last bit of a cosine, which differs between libraries, decides which pixel is nearest."""
    y, x = np.indices((height, width), dtype=np.float64)
    sources = warp(name, level, sign, 0, height, width)(x, y)
    return np.logical_or(*(np.abs(where - np.floor(where) - 0.5) < 1e-9 for where in sources))


def rounded(where: np.ndarray) -> np.ndarray:
    """To the nearest integer, half away from zero."""
    whole = np.trunc(where)
    return np.where(np.abs(where - whole) >= 0.5, whole + np.sign(where), whole).astype(np.int64)


def warped(image_CHW: np.ndarray, source: Warp) -> np.ndarray:
    """The nearest pixel of the input for each of the output; 128 outside."""
    height, width = image_CHW.shape[1:]
    y, x = np.indices((height, width), dtype=np.float64)
    x, y = (rounded(where) for where in source(x, y))
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return np.where(inside, image_CHW[:, y.clip(0, height - 1), x.clip(0, width - 1)], np.uint8(FILL))
