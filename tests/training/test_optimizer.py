"""Parameter groups, and RMSProp worked out by hand."""

from collections.abc import Iterator
from typing import Any

import pytest
import timm
import torch
from torch import nn

from noisystudent_core.config import OptimizerConfig
from noisystudent_core.training import loop
from noisystudent_core.training.optimizer import create_optimizer, set_learning_rate
from tests.training.small import build, fit_config


def settings_of(model: nn.Module, **settings: Any) -> Iterator[tuple[str, nn.Module, dict]]:
    """Each parameter's name, the module it belongs to, and its group."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in create_optimizer(model, OptimizerConfig(**settings)).param_groups:
        for parameter in group["params"]:
            name = names.pop(id(parameter))
            yield name, model.get_submodule(name.rpartition(".")[0]), group
    assert not names  # every parameter has a group


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext"])
@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_weight_decay_spares_norms_only(name: str, layer_decay: float) -> None:
    model = timm.create_model(name, num_classes=3)
    spared = 0
    for parameter, module, group in settings_of(model, weight_decay=0.1, layer_decay=layer_decay):
        is_norm = isinstance(module, (nn.BatchNorm2d, nn.LayerNorm))
        assert group["weight_decay"] == (0.0 if is_norm else 0.1), parameter
        spared += is_norm
    assert spared > 5


def test_layer_decay_scales_the_rate_by_depth() -> None:
    model = timm.create_model("test_convnext", num_classes=3)
    scales = {name: group["lr_scale"] for name, _, group in settings_of(model, name="adamw", layer_decay=0.5)}
    assert scales["head.fc.weight"] == scales["head.fc.bias"] == 1.0
    blocks = [scales[f"stages.2.blocks.{i}.conv_dw.weight"] for i in range(4)]
    assert blocks == [blocks[0] * 2**i for i in range(4)]
    assert scales["stem.0.weight"] == min(scales.values()) <= 0.5**8


def test_a_fit_s_layers_are_those_of_its_net() -> None:
    state = loop.start(build(fit_config()), fit_config(optimizer=OptimizerConfig(name="adamw", layer_decay=0.5)))
    set_learning_rate(state.optimizer, 0.1)
    assert len({group["lr"] for group in state.optimizer.param_groups}) > 3


def test_rate_is_set_on_every_group_by_its_scale() -> None:
    model = timm.create_model("test_convnext", num_classes=3)
    optimizer = create_optimizer(model, OptimizerConfig(layer_decay=0.5))
    set_learning_rate(optimizer, 0.1)
    set_learning_rate(optimizer, 0.2)  # absolute: what was set before does not matter
    assert all(group["lr"] == pytest.approx(0.2 * group["lr_scale"]) for group in optimizer.param_groups)


def test_rmsprop_has_its_epsilon_inside_the_root() -> None:
    weight = nn.Linear(1, 1, bias=False)
    nn.init.ones_(weight.weight)
    optimizer = create_optimizer(weight, OptimizerConfig(weight_decay=0))  # decay 0.9, momentum 0.9, eps 0.001
    set_learning_rate(optimizer, 0.1)
    found = []
    for _ in range(2):
        weight.weight.grad = torch.full((1, 1), 0.5)
        optimizer.step()
        found.append(weight.weight.item())
    # mean square 1 -> 0.925 -> 0.8575; moves 0.1 x 0.5 / sqrt(0.926), then 0.9 of it + 0.1 x 0.5 / sqrt(0.8585)
    assert found == pytest.approx([0.948040554, 0.847313585], abs=1e-6)
    assert abs(found[0] - (1 - 0.05 / (0.925**0.5 + 0.001))) > 2e-5  # epsilon outside


@pytest.mark.parametrize(
    ("nesterov", "expected"),
    [
        (True, [0.905, 0.7695]),  # moves 0.1 x (0.5 + 0.9 x 0.5), then 0.1 x (0.5 + 0.9 x (0.9 x 0.5 + 0.5))
        (False, [0.95, 0.855]),  # moves 0.1 x 0.5, then 0.1 x (0.9 x 0.5 + 0.5)
    ],
)
def test_sgd_with_either_momentum(nesterov: bool, expected: list[float]) -> None:
    weight = nn.Linear(1, 1, bias=False)
    nn.init.ones_(weight.weight)
    optimizer = create_optimizer(weight, OptimizerConfig(name="sgd", nesterov=nesterov, weight_decay=0))
    set_learning_rate(optimizer, 0.1)
    found = []
    for _ in range(2):
        weight.weight.grad = torch.full((1, 1), 0.5)
        optimizer.step()
        found.append(weight.weight.item())
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "kind", "expected"),
    [
        ({"name": "sgd"}, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        ({"name": "sgd", "nesterov": False}, torch.optim.SGD, {"momentum": 0.9, "nesterov": False}),
        ({"name": "sgd", "momentum": 0.0}, torch.optim.SGD, {"momentum": 0.0, "nesterov": False}),
        ({"name": "adamw", "decay": 0.999, "eps": 1e-8}, torch.optim.AdamW, {"betas": (0.9, 0.999), "eps": 1e-8}),
    ],
)
def test_other_optimisers(settings: Any, kind: type, expected: dict[str, Any]) -> None:
    optimizer = create_optimizer(nn.Linear(2, 2), OptimizerConfig(**settings))
    assert type(optimizer) is kind
    assert {name: optimizer.param_groups[0][name] for name in expected} == expected
