"""Whose reading of "RandAugment, magnitude m": the operations drawn, and what a level means as their argument."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from noisystudent_core.data import geometry
from noisystudent_core.data.geometry import Sampling
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.noise import operations as ops
from noisystudent_core.noise.operations import NUM_ARGUMENTS, Operation, Warp


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What arguments depend on beside the level, in pixels; the constants are the paper's code's, at magnitude 10."""

    height: int
    width: int
    translate_const: float
    cutout_const: float


Argument = Callable[[float, Scale], float]  # of a level


@dataclass(frozen=True, kw_only=True)
class Rule:
    """An operation of a dialect: what a level means as its argument, and what is drawn beside the operation itself."""

    apply: Operation
    argument: Argument = lambda level, scale: 0.0
    signed: bool = False  # one time in two the argument is negated
    placed: bool = False  # the operation takes a place in the image, too: arguments 1 and 2
    numbers: Callable[[float, Scale], tuple[float, ...]] = lambda value, scale: (value,)  # of a warp: its eight
    bicubic: Operation | None = None  # one time in two instead of `apply`

    def arguments(self, level: float, scale: Scale, sign: int) -> list[float]:
        """The `NUM_ARGUMENTS` numbers that the operation is told; a place is left at 0."""
        value = float(self.argument(level, scale)) * (sign if self.signed else 1)
        numbers = self.numbers(value, scale)
        return [*numbers, *[0.0] * (NUM_ARGUMENTS - len(numbers))]


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """A reading of RandAugment: operations drawn uniformly, each applied with a probability."""

    rules: Mapping[str, Rule]
    probability: float = 1.0
    whole_levels: range | None = None  # None: any level from 0
    max_level: float = float("inf")  # levels above it act as it


def dialect_of(name: str) -> Dialect:
    """The dialect of this name; raises ConfigurationError where there is none."""
    if name not in DIALECTS:
        raise ConfigurationError(f"dialect={name!r}: unknown; use one of {', '.join(DIALECTS)}")
    return DIALECTS[name]


def checked_level(level: float, dialect: str, name: str = "level") -> float:
    """The level that acts; raises ConfigurationError, naming the setting `name`, for one that the dialect lacks."""
    known, levels = dialect_of(dialect), dialect_of(dialect).whole_levels
    if levels is not None and level not in levels:
        raise ConfigurationError(
            f"{name}={level}: must be a whole number in [{levels[0]}, {levels[-1]}] for the dialect {dialect!r}"
        )
    if not 0 <= level < float("inf"):
        raise ConfigurationError(f"{name}={level}: must be >= 0 and finite; the paper uses 27 in the dialect 'google'")
    return min(level, known.max_level)


# What a level means


def _of_ten(full: float, start: float = 0.0) -> Argument:
    """`start` at level 0, `full` more at level 10, and on beyond."""
    return lambda level, scale: level / 10 * full + start


def _whole_of_ten(full: float) -> Argument:
    return lambda level, scale: int(level / 10 * full)


def _of_thirty(end: Callable[[Scale], float], start: float = 0.0) -> Argument:
    """torchvision's float32 bins: `start` at level 0, `end` at level 30."""
    return lambda level, scale: float(torch.linspace(start, end(scale), 31)[int(level)])


def _google_bits(level: float, scale: Scale) -> int:
    """Bits kept: the shift wraps as an unsigned byte and stops at 7, so that one bit is left at level 27, and at 0."""
    return 8 - min((8 - int(level / 10 * 4)) % 256, 7)


# Warps

_MOVES = {"Rotate": "xy", "ShearX": "x", "ShearY": "y", "TranslateX": "x", "TranslateY": "y"}
_ZERO = torch.zeros(1, dtype=torch.float64)
_MATRICES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "Rotate": geometry.rotation,
    "ShearX": geometry.shear_x,
    "ShearY": geometry.shear_y,
    "TranslateX": lambda pixels: geometry.translation(pixels, _ZERO),
    "TranslateY": lambda pixels: geometry.translation(_ZERO, pixels),
}


def _warps(
    argument_of: Mapping[str, Argument], *, fill: int, samplings: tuple[Sampling, ...], shear_origin: float
) -> dict[str, Rule]:
    """Rules of the five warps; `argument_of` gives degrees, slopes, pixels; one or two `samplings` are drawn as often.

    `shear_origin`: what is sheared about, x and y, 0 being the middle of the first pixel and -0.5 its corner.
    """
    rules = {}
    for name, argument in argument_of.items():
        first, *second = (Warp(_MOVES[name], sampling, fill) for sampling in samplings)
        numbers = partial(_warp_numbers, name, shear_origin)
        rules[name] = Rule(
            apply=first, bicubic=next(iter(second), None), argument=argument, signed=True, numbers=numbers
        )
    return rules


def _warp_numbers(name: str, shear_origin: float, value: float, scale: Scale) -> tuple[float, ...]:
    matrix = _MATRICES[name](torch.tensor([value], dtype=torch.float64))
    turned = name == "Rotate"
    origin = geometry.centre(scale.height, scale.width) if turned else (shear_origin, shear_origin)
    return (*matrix.flatten().tolist(), *origin)


# Dialects

_ENHANCE = _of_ten(1.8, start=0.1)

_GOOGLE_WARPS = _warps(
    {
        "Rotate": _of_ten(30),
        "ShearX": _of_ten(0.3),
        "ShearY": _of_ten(0.3),
        "TranslateX": lambda level, scale: level / 10 * scale.translate_const,
        "TranslateY": lambda level, scale: level / 10 * scale.translate_const,
    },
    fill=128,
    samplings=("nearest",),
    shear_origin=0,
)

# the paper's code (METHOD section 3): levels are not limited, integers wrap, outside is grey
_GOOGLE: dict[str, Rule] = {
    "AutoContrast": Rule(apply=ops.auto_contrast),
    "Equalize": Rule(apply=ops.equalize),
    "Invert": Rule(apply=ops.invert),
    "Rotate": _GOOGLE_WARPS["Rotate"],
    "Posterize": Rule(apply=ops.posterize, argument=_google_bits),
    "Solarize": Rule(apply=ops.solarize, argument=lambda level, scale: int(level / 10 * 256) % 256),
    "Color": Rule(apply=partial(ops.colour, grey=ops.tf_grey), argument=_ENHANCE),
    "Contrast": Rule(apply=partial(ops.contrast, mean=ops.num_pixels_over_256), argument=_ENHANCE),
    "Brightness": Rule(apply=ops.brightness, argument=_ENHANCE),
    "Sharpness": Rule(apply=partial(ops.sharpness, rounded=False), argument=_ENHANCE),
    "ShearX": _GOOGLE_WARPS["ShearX"],
    "ShearY": _GOOGLE_WARPS["ShearY"],
    "TranslateX": _GOOGLE_WARPS["TranslateX"],
    "TranslateY": _GOOGLE_WARPS["TranslateY"],
    "SolarizeAdd": Rule(apply=ops.solarize_add, argument=_whole_of_ten(110)),
    "Cutout": Rule(
        apply=partial(ops.cutout, fill=128),
        argument=lambda level, scale: int(level / 10 * scale.cutout_const),
        placed=True,
    ),
}

_TIMM_WARPS = _warps(
    {
        "Rotate": _of_ten(30),
        "ShearX": _of_ten(0.3),
        "ShearY": _of_ten(0.3),
        "TranslateX": lambda level, scale: level / 10 * 0.45 * scale.width,
        "TranslateY": lambda level, scale: level / 10 * 0.45 * scale.height,
    },
    fill=128,
    samplings=("bilinear", "bicubic"),
    shear_origin=-0.5,
)

# timm's `rand-m9-n2`: levels up to 10, each operation one time in two, Pillow's arithmetic, outside grey
_TIMM: dict[str, Rule] = {
    "AutoContrast": Rule(apply=ops.auto_contrast),
    "Equalize": Rule(apply=ops.equalize),
    "Invert": Rule(apply=ops.invert),
    "Rotate": _TIMM_WARPS["Rotate"],
    "Posterize": Rule(apply=ops.posterize, argument=_whole_of_ten(4)),
    "Solarize": Rule(apply=ops.solarize, argument=_whole_of_ten(256)),
    "SolarizeAdd": Rule(apply=ops.solarize_add, argument=_whole_of_ten(110)),
    "Color": Rule(apply=partial(ops.colour, grey=ops.pil_grey), argument=_ENHANCE),
    "Contrast": Rule(apply=partial(ops.contrast, mean=ops.mean_of(ops.pil_grey, rounded=True)), argument=_ENHANCE),
    "Brightness": Rule(apply=ops.brightness, argument=_ENHANCE),
    "Sharpness": Rule(apply=partial(ops.sharpness, rounded=True), argument=_ENHANCE),
    "ShearX": _TIMM_WARPS["ShearX"],
    "ShearY": _TIMM_WARPS["ShearY"],
    "TranslateXRel": _TIMM_WARPS["TranslateX"],
    "TranslateYRel": _TIMM_WARPS["TranslateY"],
}

# torchvision moves content by whole pixels, so that input and output go the other way round
_TORCHVISION_WARPS = _warps(
    {
        "Rotate": _of_thirty(lambda scale: 30.0),
        "ShearX": _of_thirty(lambda scale: 0.3),
        "ShearY": _of_thirty(lambda scale: 0.3),
        "TranslateX": lambda level, scale: -int(_of_thirty(lambda s: 150 / 331 * s.width)(level, scale)),
        "TranslateY": lambda level, scale: -int(_of_thirty(lambda s: 150 / 331 * s.height)(level, scale)),
    },
    fill=0,
    samplings=("grid_sample",),
    shear_origin=-0.5,
)
_STRENGTH = Rule(apply=ops.identity, argument=_of_thirty(lambda scale: 0.9), signed=True)
_TORCHVISION_MEAN = ops.mean_of(ops.torchvision_grey, rounded=False)

# torchvision.transforms.v2.RandAugment: 31 levels, nearest neighbour, outside black
_TORCHVISION: dict[str, Rule] = {
    "Identity": Rule(apply=ops.identity),
    **{name: _TORCHVISION_WARPS[name] for name in ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")},
    "Brightness": replace(_STRENGTH, apply=ops.around_one(ops.brightness)),
    "Color": replace(_STRENGTH, apply=ops.around_one(partial(ops.colour, grey=ops.torchvision_grey))),
    "Contrast": replace(_STRENGTH, apply=ops.around_one(partial(ops.contrast, mean=_TORCHVISION_MEAN))),
    "Sharpness": replace(_STRENGTH, apply=ops.around_one(partial(ops.sharpness, rounded=True))),
    "Posterize": Rule(apply=ops.posterize, argument=lambda level, scale: round(8 - level / 7.5)),
    "Solarize": Rule(apply=ops.solarize, argument=lambda m, scale: 255 * _of_thirty(lambda _: 0.0, 1.0)(m, scale)),
    "AutoContrast": Rule(apply=ops.auto_contrast),
    "Equalize": Rule(apply=ops.equalize),
}

DIALECTS: Mapping[str, Dialect] = {
    "google": Dialect(rules=_GOOGLE),
    "timm": Dialect(rules=_TIMM, probability=0.5, max_level=10),
    "torchvision": Dialect(rules=_TORCHVISION, whole_levels=range(31)),
}
