"""Wide ResNets: published sizes, pre-activation, the slope of the leaky variant."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from noisystudent_core.config import ModelConfig
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.models.architectures import num_parameters
from noisystudent_core.models.wide_resnet import PreActivationBlock, WideResNet


# Zagoruyko and Komodakis 2016, table 4: 36.5M; Oliver et al. 2018: 1.5M
@pytest.mark.parametrize(
    ("name", "published"), [("wrn_28_2", 1_467_610), ("wrn_28_2_leaky", 1_467_610), ("wrn_28_10", 36_479_194)]
)
def test_parameters_are_as_published(name: str, published: int) -> None:
    assert num_parameters(ModelConfig(name=name), 10) == published


def test_parameters_of_another_depth_and_width_are_as_published() -> None:
    with torch.device("meta"):
        net = WideResNet(40, 4)
    assert sum(parameter.numel() for parameter in net.parameters()) == 8_949_210  # table 4: 8.9M


@pytest.mark.parametrize("depth", [4, 20])
def test_other_depths_are_refused(depth: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"depth={depth}: must be 6 n \+ 4"):
        WideResNet(depth, 2)


def test_convolutions_are_as_many_as_the_name_says() -> None:
    convolutions = [m for m in timm.create_model("wrn_28_2").modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 28


def fresh(norm: nn.Module, x: Tensor) -> Tensor:
    """What an untrained batch norm does in evaluation."""
    assert isinstance(norm, nn.BatchNorm2d)
    return x / (1 + norm.eps) ** 0.5


@pytest.mark.parametrize(("in_channels", "stride"), [(8, 1), (8, 2), (4, 1)])
def test_block_is_a_function_of_its_activated_input(in_channels: int, stride: int) -> None:
    block: Any = PreActivationBlock(in_channels, 8, stride, 0.0, negative_slope=0.1).eval()
    x = torch.randn(2, in_channels, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        activated = functional.leaky_relu(fresh(block.bn1, x), 0.1)
        hidden = functional.conv2d(activated, block.conv1.weight, stride=stride, padding=1)
        branch = functional.conv2d(functional.leaky_relu(fresh(block.bn2, hidden), 0.1), block.conv2.weight, padding=1)
        same = stride == 1 and in_channels == 8
        shortcut = x if same else functional.conv2d(activated, block.shortcut.weight, stride=stride)
        torch.testing.assert_close(block(x), branch + shortcut)


def test_dropped_branch_leaves_the_raw_input() -> None:
    images = torch.randn(4, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    block = PreActivationBlock(8, 8, 1, 1 - 1e-9, negative_slope=0.0).train()
    assert torch.equal(block(images), images)


@pytest.mark.parametrize(("name", "has_negative"), [("wrn_28_2", False), ("wrn_28_2_leaky", True)])
def test_features_are_activated_as_the_name_says(name: str, has_negative: bool) -> None:
    torch.manual_seed(0)
    net: Any = timm.create_model(name).eval()
    with torch.inference_mode():
        features = net.forward_features(torch.randn(2, 3, 32, 32))
    assert features.shape == (2, 128, 8, 8)
    assert bool((features < 0).any()) is has_negative


def test_slope_cannot_be_given_where_the_name_fixes_it() -> None:
    with pytest.raises(TypeError, match="negative_slope"):
        timm.create_model("wrn_28_2", negative_slope=0.1)
