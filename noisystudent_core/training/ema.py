"""The exponential moving average of the weights: what is evaluated, teaches, and is published."""

import copy

import torch
from torch import Tensor, nn

from noisystudent_core.models.architectures import Normalised


class EMA:
    """Averages parameters and floating buffers, batch-norm statistics included; counters are copied."""

    def __init__(self, model: Normalised, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay = decay
        self._averaged, self._live = _float_tensors(self.model), _float_tensors(model)
        self._copied, self._counted = _counters(self.model), _counters(model)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the live weights after step `step` (from 0), with decay min(d, (1 + t) / (10 + t)), t = step."""
        decay = ema_decay(self.decay, step)
        torch._foreach_lerp_(self._averaged, self._live, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        if self._copied:
            torch._foreach_copy_(self._copied, self._counted)  # pyright: ignore[reportPrivateImportUsage]


def ema_decay(decay: float, step: int) -> float:
    """The reference's warm-up of the decay (METHOD section 4); a decay of 0 keeps the live weights."""
    return min(decay, (1 + step) / (10 + step))


def _float_tensors(model: nn.Module) -> list[Tensor]:
    return [tensor for tensor in model.state_dict(keep_vars=False).values() if tensor.is_floating_point()]


def _counters(model: nn.Module) -> list[Tensor]:
    return [tensor for tensor in model.state_dict(keep_vars=False).values() if not tensor.is_floating_point()]
