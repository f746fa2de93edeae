"""Fixing the train-test resolution discrepancy (Touvron et al. 2019; the paper's section 3.1): shallow layers stay."""

from typing import Any

from timm.models import group_parameters
from torch import nn

from noisystudent_core.errors import ConfigurationError
from noisystudent_core.training.optimizer import NORMS


def freeze_shallow(net: nn.Module, share: float) -> list[str]:
    """Freeze the first `share` of a timm net's layers below its head, and return the names of their parameters.

    Their parameters get no gradient; their norms stay in evaluation mode, so that batch norm's statistics stay, too.
    Layers are timm's groups by depth, a residual block being one. Raises ConfigurationError for a net that has none.
    """
    if not hasattr(net, "group_matcher"):
        raise ConfigurationError(
            f"{type(net).__name__} does not tell its layers by depth, so none can be frozen; choose another model"
        )
    matcher: Any = net.group_matcher
    layer_of: Any = group_parameters(net, matcher(coarse=False), reverse=True)
    num_frozen = round(share * max(layer_of.values()))
    frozen = [name for name, layer in layer_of.items() if layer < num_frozen]
    for name in frozen:
        net.get_parameter(name).requires_grad_(False)
        module = net.get_submodule(name.rpartition(".")[0])
        if isinstance(module, NORMS):
            module.eval()
    return frozen
