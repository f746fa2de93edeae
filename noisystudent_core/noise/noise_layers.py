"""The layers of model noise: timm's and torch's, which may also be kept to some rows, or draw by a seed per row."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from torch import Tensor, nn

from noisystudent_core.errors import ConfigurationError
from noisystudent_core.noise.draws import uniform

# streams of a row's seed; those of input noise lie far below
_DEPTH, _DROPOUT = 1_000_000, 2_000_000


class NoiseLayer:
    """What may be told to a layer of noise about the rows of its batch."""

    noised: tuple[int, int] | None = None  # noised rows, from the first, and rows of a whole batch; None: all
    seeds_B: Tensor | None = None  # int64 [B]; None: torch's generator draws, in training mode alone


class StochasticDepth(DropPath, NoiseLayer):
    """Drop each row of [B, ...] at the rate, and scale the others up; the draws are those of timm's DropPath."""

    def __init__(self, rate: float, stream: int) -> None:
        super().__init__(rate)
        self._stream = _DEPTH + stream

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` [B, ...], rows dropped in training mode."""
        if not self.drop_prob or not _is_active(self, self.training):
            return x
        shape = (len(x),) + (1,) * (x.ndim - 1)
        if self.seeds_B is None:
            keep = x.new_empty(shape).bernoulli_(1 - self.drop_prob)
        else:
            keep = (_row_draws(self, x, self._stream) >= self.drop_prob).to(x.dtype).view(shape)
        keep.div_(1 - self.drop_prob)
        if self.noised is not None:
            keep[_num_noised(self.noised, x) :] = 1
        return x * keep


class Dropout(nn.Dropout, NoiseLayer):
    """Drop each element of [B, ...] at the rate, and scale the others up."""

    def forward(self, input: Tensor) -> Tensor:  # torch's name
        """Return `input`, elements dropped in training mode."""
        return _drop_elements(input, self.p, self, self.training)


class ClassifierDropout(NoiseLayer):
    """The same as a hook before a classifier, for nets that have no layer there."""

    def __init__(self, rate: float) -> None:
        self.p = rate

    def __call__(self, classifier: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Drop elements of the classifier's input, [B, ...]."""
        return (_drop_elements(inputs[0], self.p, self, classifier.training), *inputs[1:])

    @classmethod
    def put_before(cls, classifiers: Iterable[nn.Module], rate: float) -> None:
        """Set the one hook before each of the classifiers to `rate`."""
        for classifier in classifiers:
            hooks = cls.before(classifier)
            for hook in hooks:
                hook.p = rate
            if not hooks:
                classifier.register_forward_pre_hook(cls(rate))

    @classmethod
    def before(cls, module: nn.Module) -> list["ClassifierDropout"]:
        """The hooks of this kind before a module."""
        return [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, cls)]


def _drop_elements(x: Tensor, rate: float, layer: NoiseLayer, training: bool) -> Tensor:
    if not rate or not _is_active(layer, training):
        return x
    if layer.seeds_B is None:
        dropped = F.dropout(x, rate)
    else:
        keep = _element_draws(layer, x, _DROPOUT) >= rate
        dropped = x * keep.to(x.dtype).div_(1 - rate)
    if layer.noised is None:
        return dropped
    num_noised = _num_noised(layer.noised, x)
    return torch.cat((dropped[:num_noised], x[num_noised:]))


def _is_active(layer: NoiseLayer, training: bool) -> bool:
    return training or layer.seeds_B is not None


def _num_noised(noised: tuple[int, int], x: Tensor) -> int:
    num_noised, num_rows = noised
    _check_rows(x, num_rows)
    return num_noised


def _row_draws(layer: NoiseLayer, x: Tensor, stream: int) -> Tensor:
    """A draw in [0, 1) for each row of `x` by its seed, float64 [B]."""
    assert layer.seeds_B is not None
    _check_rows(x, len(layer.seeds_B))
    return uniform(layer.seeds_B, stream)


def _element_draws(layer: NoiseLayer, x: Tensor, stream: int) -> Tensor:
    """A draw in [0, 1) for each element of `x`, by its row's seed and its place in the row; float64 like `x`."""
    first_B = (_row_draws(layer, x, stream) * 2.0**53).to(torch.int64)
    seeds = first_B[:, None] + torch.arange(x[0].numel(), device=x.device)
    return uniform(seeds, 0).view(x.shape)


def _check_rows(x: Tensor, num_rows: int) -> None:
    if len(x) != num_rows:
        raise ConfigurationError(
            f"a layer of noise sees {len(x)} rows of a batch of {num_rows}: must be one per image; "
            "this net mixes images in its batch axis: keep pseudo_labels.model_noise and leave noised_teacher off, "
            "or choose another"
        )
