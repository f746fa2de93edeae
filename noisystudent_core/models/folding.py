"""Batch norm folded into the convolution before it, for labelling: half the time of a small net on a CPU."""

import copy
from collections import Counter

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

# exactly these, no subclasses: others may do more with their weights than convolve or normalise
_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
_NORMS = (nn.BatchNorm2d, BatchNormAct2d)


def folded(net: nn.Module) -> nn.Module:
    """A copy of the net, in eval mode, without the batch norms that alone follow a convolution.

    Its outputs are the same up to rounding. A net that cannot be traced, for what it does depends on its input, is
    copied as it is.
    """
    net = copy.deepcopy(net).eval()
    for convolution, norm in _pairs(net):
        _fold(net, convolution, norm)
    return net


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (*_CONVOLUTIONS, *_NORMS)) or super().is_leaf_module(m, module_qualified_name)


def _pairs(net: nn.Module) -> list[tuple[str, str]]:
    """Names of convolutions and of the norms that are the only ones to see what comes out of them."""
    try:
        graph = _Tracer().trace(net)
    except Exception:  # a net's own code may fail in any way when it is given a symbol
        return []
    types = {name: type(module) for name, module in net.named_modules()}
    called = [node for node in graph.nodes if node.op == "call_module"]
    num_calls = Counter(node.target for node in called)
    pairs = []
    for node in called:
        before = node.args[0]
        if types[node.target] not in _NORMS or not isinstance(before, fx.Node) or before.op != "call_module":
            continue
        is_plain = types[before.target] in _CONVOLUTIONS and len(before.users) == 1
        if is_plain and num_calls[node.target] == num_calls[before.target] == 1:
            pairs.append((str(before.target), str(node.target)))
    return pairs


def _fold(net: nn.Module, convolution: str, norm: str) -> None:
    before, after = net.get_submodule(convolution), net.get_submodule(norm)
    assert isinstance(before, nn.Conv2d) and isinstance(after, nn.BatchNorm2d)
    if after.running_mean is None or after.running_var is None:
        return  # it normalises by the batch's own statistics
    with torch.no_grad():
        before.weight, before.bias = fuse_conv_bn_weights(
            before.weight, before.bias, after.running_mean, after.running_var, after.eps, after.weight, after.bias
        )
    net.set_submodule(norm, nn.Sequential(*after.children()))  # timm's dropout and activation, or nothing
