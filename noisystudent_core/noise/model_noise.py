"""Model noise: dropout before the classifier and linear-decay stochastic depth, on any timm model (paper section 3.1).

timm's own `drop_path_rate` spaces its rates differently from net to net (EfficientNet: rate i/N from i = 0, as the
paper's released code; ResNet: rate i/(N-1)), counts blocks without a shortcut, and some models ignore it in silence.
Here every net gets the paper's rule, whatever rate it was created with, and a net that cannot carry it is an error.
"""

from timm.layers.drop import DropPath
from torch import Tensor, nn

from noisystudent_core.errors import ConfigurationError
from noisystudent_core.noise.noise_layers import ClassifierDropout, Dropout, NoiseLayer, StochasticDepth

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
    names = _head_dropouts(model)
    for name in names:
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, Dropout(rate).train(model.get_submodule(name).training))
    if not hasattr(model, "drop_rate"):
        if rate > 0 and not names:
            raise ConfigurationError(
                f"dropout={rate}: {type(model).__name__} has no dropout before its classifier; "
                "set 0 or change the model"
            )
    elif names:
        model.drop_rate = rate  # pyright: ignore[reportArgumentType]  (a plain float on timm's models)
    else:  # the net would apply its rate to every row: ours takes its place
        model.drop_rate = 0.0  # pyright: ignore[reportArgumentType]
        ClassifierDropout.put_before(_classifiers(model), rate)


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
        for place, name in enumerate(names):
            layer = StochasticDepth(rate * index / len(blocks), stream=len(_DROP_PATHS) * index + place)
            setattr(block, name, layer.train(block.training))


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


def noise_first_rows(model: nn.Module, num_noised: int | None, num_rows: int) -> None:
    """Keep the noise of a `noise_model` to the first `num_noised` of a batch's `num_rows` rows; None: all are noised.

    The other rows pass the layers of noise as in evaluation (paper table 6: no model noise on unlabelled images).
    """
    for layer in _layers(model):
        layer.noised = None if num_noised is None else (num_noised, num_rows)


def noise_by_seed(model: nn.Module, seeds_B: Tensor | None) -> None:
    """Let each row of the next batch draw by its seed (int64 [B]) alone, whatever its batch, in evaluation mode too.

    None: draws come from torch's generator again, in training mode.
    """
    for layer in _layers(model):
        layer.seeds_B = seeds_B


def head_dropout(model: nn.Module) -> float:
    """Return the drop rate before the classifier; 0 where the model has no dropout there."""
    found = [layer.p for layer in map(model.get_submodule, _head_dropouts(model)) if isinstance(layer, nn.Dropout)]
    found += [hook.p for classifier in _classifiers(model) for hook in ClassifierDropout.before(classifier)]
    return found[0] if found else float(getattr(model, "drop_rate", 0.0))


def drop_rates(model: nn.Module) -> list[float]:
    """Return the drop rate of every residual block, in forward order."""
    return [
        layer.drop_prob if isinstance(layer := getattr(block, names[0]), DropPath) else 0.0
        for block, names in _residual_blocks(model)
    ]


def _layers(model: nn.Module) -> list[NoiseLayer]:
    """Every layer of noise that was set here, hooks included."""
    modules = list(model.modules())
    layers: list[NoiseLayer] = [module for module in modules if isinstance(module, NoiseLayer)]
    return layers + [hook for module in modules for hook in ClassifierDropout.before(module)]


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


def _head_dropouts(model: nn.Module) -> list[str]:
    modules = dict(model.named_modules())
    return [name for name in _HEAD_DROPOUTS if isinstance(modules.get(name), nn.Dropout)]


def _classifiers(model: nn.Module) -> tuple[nn.Module, ...]:
    """The last layers of a timm net, more than one where it was distilled; none of a net that is not timm's."""
    if not hasattr(model, "get_classifier"):
        return ()
    found = model.get_classifier()  # pyright: ignore[reportCallIssue]
    return tuple(found) if isinstance(found, (tuple, list)) else (found,)


def _check_rate(name: str, rate: float) -> None:
    if not 0 <= rate < 1:
        raise ConfigurationError(f"{name}={rate}: must be in [0, 1); the paper uses 0.5 for dropout, 0.2 for depth")
