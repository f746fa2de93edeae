"""RandAugment (Cubuk et al. 2020; paper section 3.1) on whole uint8 batches, an operation drawn per image.

Three layers: operations take a batch and one argument per image; a dialect's rules say which operations it draws and
what argument a level means; `RandAugment` draws. Operations use only arithmetic that is exact or rounded the same way
everywhere, so neither the batch, nor its split, nor the number of threads changes a pixel.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from noisystudent_core.data import geometry
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.noise.draws import check_images, check_seeds, integers, uniform

# Streams of an image's seed: RandAugment's i-th operation owns _STREAM + 2 i (operation) and _STREAM + 2 i + 1 (sign)
_STREAM = 1000


# Operations: (images uint8 [N, C, H, W], arguments float64 [N]) -> uint8 [N, C, H, W]


def identity(images: Tensor, _: Tensor) -> Tensor:
    """Return the images as they are."""
    return images


def brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with black: 0 is black, 1 the image."""
    return _to_uint8(images * _per_image(factors))


def colour(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with the grey image: 0 is grey, 1 the image; one channel stays as it is."""
    return images if images.shape[1] == 1 else _blend(images, _grey(images), factors)


def contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with the mean grey level of the image: 0 is flat, 1 the image."""
    grey = _grey(images)
    # whole grey levels add up exactly in float64, in any order
    mean = grey.sum(dim=(1, 2, 3), keepdim=True, dtype=torch.float64) / grey[0].numel()
    return _blend(images, mean.float(), factors)


def sharpness(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with a 3 x 3 blur (centre weight 5 of 13): 0 is blurred, 1 the image; the outermost pixels stay."""
    if min(images.shape[2:]) <= 2:
        return images
    wide = images.to(torch.int16)
    rows = wide[:, :, :-2] + wide[:, :, 1:-1] + wide[:, :, 2:]
    box = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    inner = wide[:, :, 1:-1, 1:-1]
    blurred = ((box + inner * 4).float() / 13).round_()
    sharpened = images.clone()
    sharpened[:, :, 1:-1, 1:-1] = _to_uint8((blurred - inner) * (1 - _per_image(factors)) + inner)
    return sharpened


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest `bits` (0 to 8) bits of each grey level."""
    masks = 256 - 2 ** (8 - bits.to(torch.int64))
    return images & masks.to(torch.uint8).view(-1, 1, 1, 1)


def solarize(images: Tensor, thresholds: Tensor) -> Tensor:
    """Invert the grey levels at or above the threshold (0 to 255), compared in float32 as torchvision does."""
    return torch.where(images >= thresholds.float().ceil().to(torch.uint8).view(-1, 1, 1, 1), ~images, images)


def auto_contrast(images: Tensor, _: Tensor) -> Tensor:
    """Stretch each channel so that its darkest level is 0 and its brightest 255; a flat channel stays."""
    low, high = (level.float()[..., None, None] for level in images.flatten(2).aminmax(dim=2))
    scale = (high - low) * (1 / 255)
    flat = scale == 0
    return _to_uint8((images - low.masked_fill(flat, 0)) / scale.masked_fill(flat, 1))


def equalize(images: Tensor, _: Tensor) -> Tensor:
    """Flatten each channel's histogram with PIL's integer rule; a channel with too few levels stays."""
    flat = images.flatten(2).to(torch.int64)
    counts = torch.zeros(*flat.shape[:2], 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, flat, torch.ones((), dtype=torch.int64, device=images.device).expand_as(flat))
    cumulative = counts.cumsum(2)
    brightest = counts.gather(2, cumulative.argmax(2, keepdim=True))
    step = (flat.shape[2] - brightest) // 255
    table = ((cumulative - counts + step // 2) // step.clamp(min=1)).clamp_(0, 255)
    table = torch.where(step == 0, torch.arange(256, device=images.device), table).to(torch.uint8)
    return table.gather(2, flat).view_as(images)


def _shear_x(images: Tensor, slopes: Tensor) -> Tensor:
    return geometry.warp(images, geometry.shear_x(slopes, origin_y=-0.5), rounding="grid_sample")


def _shear_y(images: Tensor, slopes: Tensor) -> Tensor:
    return geometry.warp(images, geometry.shear_y(slopes, origin_x=-0.5), rounding="grid_sample")


def _translate_x(images: Tensor, pixels: Tensor) -> Tensor:
    shifts = pixels.trunc()
    return geometry.warp(images, geometry.translation(-shifts, torch.zeros_like(shifts)), rounding="grid_sample")


def _translate_y(images: Tensor, pixels: Tensor) -> Tensor:
    shifts = pixels.trunc()
    return geometry.warp(images, geometry.translation(torch.zeros_like(shifts), -shifts), rounding="grid_sample")


def _rotate(images: Tensor, degrees: Tensor) -> Tensor:
    return geometry.warp(images, geometry.rotation(degrees, *images.shape[2:]), rounding="grid_sample")


def _around_one(operation: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Read a signed strength v as the blend factor 1 + v."""
    return lambda images, strengths: operation(images, 1 + strengths)


def _blend(images: Tensor, other: Tensor, factors: Tensor) -> Tensor:
    factor = _per_image(factors)
    return _to_uint8(images * factor + other * (1 - factor))


def _grey(images: Tensor) -> Tensor:
    """Whole grey levels, float32 [N, 1, H, W], by torchvision's weights."""
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = images.split(1, dim=1)
    return (red * 0.2989).add_(green * 0.587).add_(blue * 0.114).floor_()


def _per_image(arguments: Tensor) -> Tensor:
    return arguments.float().view(-1, 1, 1, 1)


def _to_uint8(grey_levels: Tensor) -> Tensor:
    """Clip to [0, 255] and drop the fraction, as torchvision does."""
    return grey_levels.clamp_(0, 255).to(torch.uint8)


# Dialects


@dataclass(frozen=True, kw_only=True)
class Rule:
    """An operation of a dialect: what a level means as its argument, and whether a random sign turns that round."""

    apply: Callable[[Tensor, Tensor], Tensor]
    argument: Callable[[int, int, int], float] = lambda level, height, width: 0.0  # (level, H, W) -> argument
    signed: bool = False


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """One reading of "RandAugment, magnitude m": the operations drawn uniformly, and the levels that it knows."""

    rules: Mapping[str, Rule]
    levels: range


def _bin(level: int, end: float, start: float = 0.0) -> float:
    """torchvision's float32 bin: level 0 is `start`, level 30 is `end`."""
    return float(torch.linspace(start, end, 31)[level])


# arguments of the rules: m is the level, h and w are the height and width in pixels
_TORCHVISION_RULES = {
    "Identity": Rule(apply=identity),
    "ShearX": Rule(apply=_shear_x, argument=lambda m, h, w: _bin(m, 0.3), signed=True),
    "ShearY": Rule(apply=_shear_y, argument=lambda m, h, w: _bin(m, 0.3), signed=True),
    "TranslateX": Rule(apply=_translate_x, argument=lambda m, h, w: _bin(m, 150 / 331 * w), signed=True),
    "TranslateY": Rule(apply=_translate_y, argument=lambda m, h, w: _bin(m, 150 / 331 * h), signed=True),
    "Rotate": Rule(apply=_rotate, argument=lambda m, h, w: _bin(m, 30.0), signed=True),
    "Brightness": Rule(apply=_around_one(brightness), argument=lambda m, h, w: _bin(m, 0.9), signed=True),
    "Color": Rule(apply=_around_one(colour), argument=lambda m, h, w: _bin(m, 0.9), signed=True),
    "Contrast": Rule(apply=_around_one(contrast), argument=lambda m, h, w: _bin(m, 0.9), signed=True),
    "Sharpness": Rule(apply=_around_one(sharpness), argument=lambda m, h, w: _bin(m, 0.9), signed=True),
    "Posterize": Rule(apply=posterize, argument=lambda m, h, w: round(8 - m / 7.5)),
    "Solarize": Rule(apply=solarize, argument=lambda m, h, w: 255 * _bin(m, 0.0, start=1.0)),
    "AutoContrast": Rule(apply=auto_contrast),
    "Equalize": Rule(apply=equalize),
}

# torchvision.transforms.v2.RandAugment: 31 levels, nearest neighbour, outside black
DIALECTS: Mapping[str, Dialect] = {"torchvision": Dialect(rules=_TORCHVISION_RULES, levels=range(31))}


class RandAugment:
    """Apply `num_ops` operations to each image, drawn with their signs from the image's own seed (paper section 3.1).

    `RandAugment(dialect, num_ops, magnitude)(images, seeds_B)` takes uint8 [B, C, H, W] with C of 1 or 3, on CPU or
    CUDA, and int64 [B]; returns new images of the same shape, dtype and device. The same image with the same seed gives
    the same result in any batch. Raises ConfigurationError for an unknown dialect, a magnitude outside the dialect's
    levels, `num_ops` below 0, images that are not uint8 [B, C, H, W], and seeds of another length.
    """

    def __init__(self, dialect: str, num_ops: int, magnitude: float) -> None:
        if num_ops < 0:
            raise ConfigurationError(f"num_ops={num_ops}: must be >= 0; the paper uses 2 (section 3.1)")
        self.num_ops = num_ops
        self._dialect = _dialect(dialect)
        self._level = _level(magnitude, dialect)

    def __call__(self, images: Tensor, seeds_B: Tensor) -> Tensor:
        check_seeds(images, seeds_B)
        # drawn on the host: one small copy instead of a synchronisation per operation
        seeds_B = seeds_B.cpu()
        noised = images.clone()
        for index in range(self.num_ops):
            drawn_B = integers(seeds_B, _STREAM + 2 * index, len(self._dialect.rules))
            signs_B = 1 - 2 * (uniform(seeds_B, _STREAM + 2 * index + 1) < 0.5).double()
            self._apply_drawn(noised, drawn_B, signs_B)
        return noised

    def _apply_drawn(self, images: Tensor, drawn_B: Tensor, signs_B: Tensor) -> None:
        """Overwrite each image by its drawn operation, all images of one operation at once."""
        for number, rule in enumerate(self._dialect.rules.values()):
            rows = (drawn_B == number).nonzero().flatten()
            if len(rows) == 0 or rule.apply is identity:
                continue
            chosen = rows.to(images.device)
            images.index_copy_(0, chosen, _apply(rule, images.index_select(0, chosen), self._level, signs_B[rows]))


def apply_op(images: Tensor, name: str, level: float, sign: int = 1, dialect: str = "torchvision") -> Tensor:
    """Apply one operation of a dialect at one level to every image; `sign` counts only where the dialect draws one.

    `images` uint8 [B, C, H, W] with C of 1 or 3; returns the same shape, dtype and device. Raises ConfigurationError
    for an unknown dialect or operation, a level outside the dialect's, a sign other than 1 and -1, and other images.
    """
    check_images(images)
    rules = _dialect(dialect).rules
    if name not in rules:
        raise ConfigurationError(f"name={name!r}: unknown operation of {dialect!r}; use one of {', '.join(rules)}")
    if sign not in (1, -1):
        raise ConfigurationError(f"sign={sign}: must be 1 or -1; the level gives the strength")
    signs_B = torch.full((len(images),), float(sign), dtype=torch.float64)
    return images.clone() if len(images) == 0 else _apply(rules[name], images, _level(level, dialect), signs_B)


def _apply(rule: Rule, images: Tensor, level: int, signs_B: Tensor) -> Tensor:
    argument = rule.argument(level, *images.shape[2:])
    arguments_B = signs_B * argument if rule.signed else torch.full_like(signs_B, argument)
    return rule.apply(images, arguments_B.to(images.device))


def _dialect(name: str) -> Dialect:
    if name not in DIALECTS:
        raise ConfigurationError(f"dialect={name!r}: unknown; use one of {', '.join(DIALECTS)}")
    return DIALECTS[name]


def _level(level: float, dialect: str) -> int:
    levels = DIALECTS[dialect].levels
    if level not in levels:
        raise ConfigurationError(
            f"level={level}: must be a whole number in [{levels[0]}, {levels[-1]}] for the dialect {dialect!r}"
        )
    return int(level)
