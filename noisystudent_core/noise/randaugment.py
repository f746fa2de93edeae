"""RandAugment (Cubuk et al. 2020; paper section 3.1) on whole uint8 batches, an operation drawn per image.

`operations` do the work on batches, `dialects` say which are drawn and what a magnitude means; here is the drawing.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from noisystudent_core.errors import ConfigurationError
from noisystudent_core.noise.dialects import DIALECTS, Rule, Scale, checked_level, dialect_of
from noisystudent_core.noise.draws import check_images, check_seeds, uniforms
from noisystudent_core.noise.operations import Operation, identity

__all__ = ["DIALECTS", "RandAugment", "apply_op"]

# Streams of an image's seed: RandAugment's i-th operation owns _STREAM + 8 i to _STREAM + 8 i + 7
_STREAM = 1000
_NUM_STREAMS = 6  # rule, sign, bicubic or not, applied or not, row and column of the place

_CHUNK = 2**19  # grey levels an operation takes at a time on a CPU: what it keeps then stays in the cache


class RandAugment:
    """Apply `num_ops` operations to each image, drawn with their signs from the image's own seed (paper section 3.1).

    `RandAugment(dialect, num_ops, magnitude)(images, seeds_B)` takes uint8 [B, C, H, W] with C of 1 or 3, on CPU or
    CUDA, and int64 [B]; returns new images of the same shape, dtype and device. The same image with the same seed gives
    the same result in any batch. `translate_const` and `cutout_const` are pixels at magnitude 10, for "google" alone.
    Raises ConfigurationError for an unknown dialect, a magnitude outside the dialect's levels, a negative constant,
    `num_ops` below 0, images that are not uint8 [B, C, H, W], and seeds of another length.
    """

    def __init__(
        self, dialect: str, num_ops: int, magnitude: float, *, translate_const: float = 100, cutout_const: float = 40
    ) -> None:
        if num_ops < 0:
            raise ConfigurationError(f"num_ops={num_ops}: must be >= 0; the paper uses 2 (section 3.1)")
        self.num_ops = num_ops
        self._dialect = dialect_of(dialect)
        self._level = checked_level(magnitude, dialect, "magnitude")
        self._constants = _constants(translate_const, cutout_const)
        self._rules = list(self._dialect.rules.values())
        self._operations = list(dict.fromkeys(way for rule in self._rules for way in _ways(rule)))
        self._way_of = torch.tensor([[self._operations.index(way) for way in _ways(rule)] for rule in self._rules])
        self._told: dict[tuple[int, ...], Tensor] = {}  # by size of image: arguments [rules, signs, NUM_ARGUMENTS]

    def __call__(self, images: Tensor, seeds_B: Tensor) -> Tensor:
        check_seeds(images, seeds_B)
        seeds_B = seeds_B.cpu()  # drawn on the host: the device is not waited for
        noised = images.clone(memory_format=torch.contiguous_format)
        with _one_thread(images.device):
            for index in range(self.num_ops):
                operation_B, arguments_B = self._draw(seeds_B, index, *images.shape[2:])
                order, start = operation_B.argsort(stable=True), 0
                for operation, count in zip(self._operations, self._counts(operation_B), strict=True):
                    rows, start = order[start : start + count], start + count
                    _apply(operation, noised, rows, arguments_B)
        return noised

    def _draw(self, seeds_B: Tensor, index: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        """The `index`-th operation of each image, past the last where it is left alone, and what it is told."""
        first = _STREAM + 8 * index
        rule, sign, bicubic, applied, row, column = uniforms(seeds_B, range(first, first + _NUM_STREAMS)).unbind(1)
        rule_B, sign_B = (rule * len(self._rules)).long(), (sign * 2).long()
        operation_B = self._way_of[rule_B, (bicubic * 2).long()]
        arguments_B = self._arguments(height, width)[rule_B, sign_B]
        placed = torch.tensor([rule.placed for rule in self._rules])[rule_B]
        place = torch.stack(((row * height).floor(), (column * width).floor()), dim=1)
        arguments_B[placed, 1:3] = place[placed]
        return operation_B.masked_fill(applied >= self._dialect.probability, len(self._operations)), arguments_B

    def _counts(self, operation_B: Tensor) -> list[int]:
        return operation_B.bincount(minlength=len(self._operations))[: len(self._operations)].tolist()

    def _arguments(self, height: int, width: int) -> Tensor:
        """What each rule tells its operation, by sign: float64 [rules, 2, NUM_ARGUMENTS]."""
        if (height, width) not in self._told:
            scale = Scale(height=height, width=width, **self._constants)
            told = [[rule.arguments(self._level, scale, sign) for sign in (1, -1)] for rule in self._rules]
            self._told[height, width] = torch.tensor(told, dtype=torch.float64)
        return self._told[height, width]


def apply_op(
    images: Tensor,
    name: str,
    level: float,
    sign: int = 1,
    dialect: str = "google",
    translate_const: float = 100,
    cutout_const: float = 40,
    centres: Tensor | None = None,
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
) -> Tensor:
    """Apply one operation of a dialect at one level to every image; `sign` counts only where the dialect draws one.

    `images` uint8 [B, C, H, W] with C of 1 or 3; returns the same shape, dtype and device. `centres` [B, 2] are the row
    and column of each cutout's middle, by default the image's own; `interpolation` is for "timm", which draws it.
    Raises ConfigurationError for an unknown dialect or operation, a level outside the dialect's, a sign other than 1
    and -1, a negative constant, centres of another shape, and other images.
    """
    check_images(images)
    rules = dialect_of(dialect).rules
    if name not in rules:
        raise ConfigurationError(f"name={name!r}: unknown operation of {dialect!r}; use one of {', '.join(rules)}")
    if sign not in (1, -1):
        raise ConfigurationError(f"sign={sign}: must be 1 or -1; the level gives the strength")
    height, width = images.shape[2:]
    scale = Scale(height=height, width=width, **_constants(translate_const, cutout_const))
    rule, level = rules[name], checked_level(level, dialect)
    if centres is None:
        centres = torch.tensor([height // 2, width // 2]).expand(len(images), 2)
    if centres.shape != (len(images), 2):
        raise ConfigurationError(
            f"centres have shape {list(centres.shape)}: must be [{len(images)}, 2]; give a row and a column per image"
        )
    arguments = torch.tensor(rule.arguments(level, scale, sign), dtype=torch.float64).repeat(len(images), 1)
    if rule.placed:
        arguments[:, 1:3] = centres
    noised = images.clone(memory_format=torch.contiguous_format)
    _apply(_ways(rule)[interpolation == "bicubic"], noised, torch.arange(len(images)), arguments)
    return noised


def _ways(rule: Rule) -> tuple[Operation, Operation]:
    """Two equally likely ways to carry a rule out, the same one where it has no other."""
    return rule.apply, rule.bicubic or rule.apply


def _apply(operation: Operation, images: Tensor, rows: Tensor, arguments_B: Tensor) -> None:
    """Overwrite some images, on a CPU a few at a time."""
    if operation is identity:
        return
    words, on_cpu = _words(images), images.device.type == "cpu"
    size = max(1, _CHUNK // images[:1].numel()) if on_cpu and len(images) else max(1, len(rows))
    for chunk in rows.split(size) if len(rows) else ():
        there = chunk.to(images.device, non_blocking=True)
        found = words.index_select(0, there).view(torch.uint8).view(-1, *images.shape[1:])
        words.index_copy_(0, there, _words(operation(found, arguments_B[chunk]).contiguous()))


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU, leave the work to one thread: in pieces this small, waking others costs more than they save."""
    number = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(number)


def _words(images: Tensor) -> Tensor:
    """A view, eight grey levels a word where that works out: single bytes are slow to move."""
    flat = images.flatten(1)
    return flat.view(torch.int64) if flat.shape[1] % 8 == 0 else flat


def _constants(translate_const: float, cutout_const: float) -> dict[str, float]:
    constants = {"translate_const": translate_const, "cutout_const": cutout_const}
    for name, value in constants.items():
        if not 0 <= value < math.inf:
            raise ConfigurationError(
                f"{name}={value}: must be >= 0 and finite; the paper uses 100 and 40 at 224 pixels"
            )
    return constants
