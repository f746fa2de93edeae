"""What a net costs, counted on paper: no weight is allocated, so that EfficientNet-L2 is counted anywhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

import timm
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from noisystudent_core.config.settings import ModelConfig
from noisystudent_core.models.architectures import on_paper


class NetCost(NamedTuple):
    """Of a net and one image."""

    flops: float  # of the forward pass: two for each multiplication with addition
    num_parameters: int
    activations: int  # numbers that layers put out, which the backward pass needs
    family: str  # timm's file of architectures, whose nets are alike


def net_cost(model: ModelConfig, num_classes: int) -> NetCost:
    """Count a net at its resolution; raises as `models.architectures.on_paper` does."""
    return _counted(model.name.partition(".")[0], model.resolution_px, num_classes)


@lru_cache(maxsize=64)
def _counted(name: str, resolution_px: int, num_classes: int) -> NetCost:
    counted = _Counted()
    net = on_paper(ModelConfig(name=name, resolution_px=resolution_px), num_classes, counted.watch)
    parameters = sum(parameter.numel() for parameter in net.parameters())
    family = timm.model_entrypoint(name).__module__.rpartition(".")[2]
    return NetCost(counted.flops, parameters, counted.activations, family)


class _Counted:
    """What a forward pass computes and puts out."""

    def __init__(self) -> None:
        self.flops, self.activations = 0.0, 0

    @contextmanager
    def watch(self, net: nn.Module) -> Iterator[None]:
        for module in net.modules():
            if not any(module.children()):
                module.register_forward_hook(self._note)
        with FlopCounterMode(display=False) as counter:
            yield
        self.flops = float(counter.get_total_flops())

    def _note(self, module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            self.activations += output.numel()
