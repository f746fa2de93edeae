"""Model noise: dropout before the classifier and linear-decay stochastic depth, on any timm model (paper section 3.1).

timm's own `drop_path_rate` spaces its rates differently from net to net (EfficientNet: rate i/N from i = 0, as the
paper's released code; ResNet: rate i/(N-1)), counts blocks without a shortcut, and some models ignore it in silence.
Here every net gets the paper's rule, whatever rate it was created with, and a net that cannot carry it is an error.
"""

from timm.layers.drop import DropPath
from torch import nn

from noisystudent_core.errors import ConfigurationError

# where timm's blocks keep their drop path: a DropPath, or nn.Identity or None if created with rate 0
_DROP_PATHS = ("drop_path", "drop_path1", "drop_path2", "drop_path3")
# where timm's models keep the dropout before the classifier, unless they apply a `drop_rate` of their own
_HEAD_DROPOUTS = ("head_drop", "head.drop", "head.dropout")


def noise_model(model: nn.Module, dropout: float, stochastic_depth: float) -> None:
    """Set both kinds of model noise in place and check that they took; evaluation mode is unaffected.

    `dropout` is the drop rate before the classifier (paper: 0.5), `stochastic_depth` the drop rate of the last residual
    block (paper: 0.2, a survival of 0.8). Raises ConfigurationError for a rate outside [0, 1) and for a model that has
    no place for a positive rate.
    """
    set_dropout(model, dropout)
    set_stochastic_depth(model, stochastic_depth)
    check_model_noise(model, dropout, stochastic_depth)


def set_dropout(model: nn.Module, rate: float) -> None:
    """Set the drop rate before the classifier, in place; raises ConfigurationError as `noise_model` does."""
    _check_rate("dropout", rate)
    layers = _head_dropouts(model)
    if rate > 0 and not layers and not hasattr(model, "drop_rate"):
        raise ConfigurationError(
            f"dropout={rate}: {type(model).__name__} has no dropout before its classifier; set 0 or change the model"
        )
    for layer in layers:
        layer.p = rate
    if hasattr(model, "drop_rate"):
        model.drop_rate = rate  # pyright: ignore[reportArgumentType]  (a plain float on timm's models)


def set_stochastic_depth(model: nn.Module, rate: float) -> None:
    """Set the drop rate of residual block i of N (from 1, in forward order) to rate * i / N, in place, per sample.

    Blocks without a shortcut are not counted: they cannot be dropped. Raises ConfigurationError as `noise_model` does.
    """
    _check_rate("stochastic_depth", rate)
    blocks = _residual_blocks(model)
    if rate > 0 and not blocks:
        raise ConfigurationError(
            f"stochastic_depth={rate}: {type(model).__name__} has no residual block that can be dropped and would "
            "ignore it; set 0 or choose another model"
        )
    for index, (block, names) in enumerate(blocks, start=1):
        for name in names:
            setattr(block, name, DropPath(rate * index / len(blocks)).train(block.training))


def check_model_noise(model: nn.Module, dropout: float, stochastic_depth: float) -> None:
    """Raise ConfigurationError unless the model carries these rates, by the rule of `set_stochastic_depth`."""
    found = head_dropout(model)
    if found != dropout:
        raise ConfigurationError(f"dropout={dropout}: the model drops {found} before its classifier; use noise_model")
    rates = drop_rates(model)
    expected = [stochastic_depth * index / len(rates) for index in range(1, len(rates) + 1)]
    if rates != expected or (stochastic_depth > 0 and not rates):
        raise ConfigurationError(
            f"stochastic_depth={stochastic_depth}: the model's residual blocks drop {rates}, must be {expected}; "
            "use noise_model"
        )


def head_dropout(model: nn.Module) -> float:
    """Return the drop rate before the classifier; 0 where the model has no dropout there."""
    layers = _head_dropouts(model)
    return layers[0].p if layers else float(getattr(model, "drop_rate", 0.0))


def drop_rates(model: nn.Module) -> list[float]:
    """Return the drop rate of every residual block, in forward order."""
    return [
        layer.drop_prob if isinstance(layer := getattr(block, names[0]), DropPath) else 0.0
        for block, names in _residual_blocks(model)
    ]


def _residual_blocks(model: nn.Module) -> list[tuple[nn.Module, list[str]]]:
    """Blocks that add a droppable branch to a shortcut, with the names of their drop paths."""
    blocks = [(module, _drop_path_names(module)) for module in model.modules() if _has_shortcut(module)]
    return [(module, names) for module, names in blocks if names]


def _drop_path_names(module: nn.Module) -> list[str]:
    holders = (DropPath, nn.Identity, type(None))
    return [name for name in _DROP_PATHS if hasattr(module, name) and isinstance(getattr(module, name), holders)]


def _has_shortcut(module: nn.Module) -> bool:
    """timm's blocks say so by `has_skip` (EfficientNet) or `shortcut` (ByobNet); the others always have one."""
    return getattr(module, "has_skip", True) and getattr(module, "shortcut", module) is not None


def _head_dropouts(model: nn.Module) -> list[nn.Dropout]:
    modules = dict(model.named_modules())
    named = (modules.get(name) for name in _HEAD_DROPOUTS)
    return [layer for layer in named if isinstance(layer, nn.Dropout)]


def _check_rate(name: str, rate: float) -> None:
    if not 0 <= rate < 1:
        raise ConfigurationError(f"{name}={rate}: must be in [0, 1); the paper uses 0.5 for dropout, 0.2 for depth")
