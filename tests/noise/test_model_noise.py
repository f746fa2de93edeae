"""Dropout and stochastic depth on real timm models: set, felt in training, absent in evaluation."""

from typing import Any

import pytest
import timm
import torch
from timm.layers.drop import DropPath
from torch import nn

from noisystudent_core.errors import ConfigurationError
from noisystudent_core.noise.model_noise import (
    check_model_noise,
    drop_rates,
    head_dropout,
    noise_model,
    set_dropout,
    set_stochastic_depth,
)

NUM_BLOCKS = {"test_resnet": 4, "test_vit": 6, "test_convnext": 9, "tf_efficientnet_b0": 9, "test_byobnet": 4}
FELT = ["test_resnet", "test_vit", "test_convnext", "mobilenetv3_small_050"]


def create(name: str, **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10, **arguments)
    # timm starts residual branches at zero, which hides that they are dropped
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return model.eval()


def outputs(model: nn.Module, num_runs: int = 4) -> list[torch.Tensor]:
    # test_vit takes 160 pixels, the others any size
    size = 160 if hasattr(model, "patch_embed") else 48
    images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return [model(images) for _ in range(num_runs)]


def noise_only(model: nn.Module) -> nn.Module:
    """Training mode for the noise, evaluation mode for batch norm, so that only noise can change the output."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


@pytest.mark.parametrize("created_with", [0.0, 0.1])
@pytest.mark.parametrize("name", NUM_BLOCKS)
def test_drop_rates_are_the_papers_whatever_the_model_was_created_with(name: str, created_with: float) -> None:
    model = create(name, drop_path_rate=created_with)
    noise_model(model, dropout=0.5, stochastic_depth=0.2)
    count = NUM_BLOCKS[name]
    assert drop_rates(model) == [0.2 * i / count for i in range(1, count + 1)]
    assert head_dropout(model) == 0.5


@pytest.mark.parametrize("rates", [(0.5, 0.0), (0.0, 0.2)], ids=["dropout", "depth"])
@pytest.mark.parametrize("name", FELT)
def test_each_noise_is_felt_in_training_and_not_in_evaluation(name: str, rates: tuple[float, float]) -> None:
    model = create(name)
    clean = outputs(model, 1)[0]
    noise_model(model, *rates)
    noisy = outputs(noise_only(model), 6)
    assert any(not torch.equal(noisy[0], other) for other in noisy[1:])
    assert torch.equal(outputs(model.eval(), 1)[0], clean)


def test_zero_rates_leave_training_without_noise() -> None:
    model = create("test_resnet", drop_rate=0.3, drop_path_rate=0.1)
    noise_model(model, dropout=0.0, stochastic_depth=0.0)
    first, *others = outputs(noise_only(model))
    assert all(torch.equal(first, other) for other in others)


def test_blocks_are_dropped_per_sample_at_their_rate_and_rescaled() -> None:
    model = create("test_resnet")
    set_stochastic_depth(model, 0.2)
    last = [module for module in model.modules() if isinstance(module, DropPath)][-1]
    branch = last.train()(torch.ones(20_000, 2, 1, 1))
    survived = (branch != 0).flatten(1)
    assert torch.equal(survived[:, 0], survived[:, 1])
    assert 0.785 < survived.float().mean() < 0.815
    assert torch.allclose(branch.max(), torch.tensor(1.25))


def test_state_dict_is_unchanged() -> None:
    model = create("test_vit")
    before = set(model.state_dict())
    noise_model(model, 0.5, 0.2)
    assert set(model.state_dict()) == before


def test_a_model_that_would_ignore_stochastic_depth_is_an_error() -> None:
    # none of its blocks has a shortcut, though timm takes drop_path_rate=0.2 in silence
    model = create("test_efficientnet", drop_path_rate=0.2)
    with pytest.raises(ConfigurationError, match=r"stochastic_depth=0.2: EfficientNet has no residual block"):
        noise_model(model, dropout=0.5, stochastic_depth=0.2)
    set_stochastic_depth(model, 0.0)


def test_a_model_without_dropout_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"dropout=0.5: Linear has no dropout before its classifier"):
        set_dropout(nn.Linear(2, 2), 0.5)


def test_check_finds_what_timm_set_otherwise() -> None:
    model = create("test_resnet", drop_rate=0.5, drop_path_rate=0.2)
    with pytest.raises(ConfigurationError, match=r"dropout=0.4: the model drops 0.5"):
        check_model_noise(model, 0.4, 0.2)
    with pytest.raises(ConfigurationError, match=r"stochastic_depth=0.2: the model's residual blocks drop \[0.0, 0.06"):
        check_model_noise(model, 0.5, 0.2)


@pytest.mark.parametrize("rates", [(1.0, 0.2), (0.5, -0.1)])
def test_rates_outside_zero_to_one(rates: tuple[float, float]) -> None:
    with pytest.raises(ConfigurationError, match=r"must be in \[0, 1\)"):
        noise_model(create("test_resnet"), *rates)
