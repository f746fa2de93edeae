"""The optimisers, by timm and torch, over parameter groups with the paper's weight decay."""

import torch
from timm.optim._param_groups import param_groups_layer_decay, param_groups_weight_decay
from timm.optim.rmsprop_tf import RMSpropTF
from torch import nn

from noisystudent_core.config.settings import OptimizerConfig

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


def create_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """RMSProp with epsilon inside the root (timm's `RMSpropTF`), SGD with either momentum, or AdamW.

    Weight decay spares norm parameters (METHOD section 4); `layer_decay` scales the learning rate by depth.
    """
    groups = _groups(model, config)
    match config.name:
        case "rmsprop":
            return RMSpropTF(groups, alpha=config.decay, eps=config.eps, momentum=config.momentum)
        case "sgd":
            nesterov = config.nesterov and config.momentum > 0  # torch refuses it without momentum
            return torch.optim.SGD(groups, momentum=config.momentum, nesterov=nesterov)
        case "adamw":
            return torch.optim.AdamW(groups, betas=(config.momentum, config.decay), eps=config.eps)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the rate of every group, scaled by its depth under layer-wise decay."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("lr_scale", 1.0)


def _groups(model: nn.Module, config: OptimizerConfig) -> list[dict]:
    norms = {
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        if isinstance(module, NORMS)
        for name, _ in module.named_parameters(recurse=False)
    }
    common = {"no_weight_decay_list": norms, "weight_decay_exclude_1d": False}
    if config.layer_decay == 1.0:
        return param_groups_weight_decay(model, config.weight_decay, **common)
    return param_groups_layer_decay(model, config.weight_decay, layer_decay=config.layer_decay, **common)
