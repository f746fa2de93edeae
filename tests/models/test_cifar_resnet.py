"""CIFAR ResNets: published sizes, option A shortcuts, He initialisation, depths that are refused."""

import math
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from noisystudent_core.config import ModelConfig
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.models.architectures import num_parameters
from noisystudent_core.models.cifar_resnet import BasicBlock, CifarResNet, ZeroPaddedShortcut

# depth: parameters for ten classes; He et al. 2016, table 6, rounds to 0.27M, 0.46M, 0.66M, 0.85M, 1.7M
SIZES = {20: 269_722, 26: 366_938, 32: 464_154, 38: 561_370, 44: 658_586, 56: 853_018, 110: 1_727_962}


@pytest.mark.parametrize(("depth", "published"), SIZES.items())
def test_parameters_are_as_published(depth: int, published: int) -> None:
    n = (depth - 2) // 6
    weights = [3 * 16, 2 * n * 16 * 16, 16 * 32 + (2 * n - 1) * 32 * 32, 32 * 64 + (2 * n - 1) * 64 * 64]
    norms = 2 * (16 + 2 * n * (16 + 32 + 64))
    assert num_parameters(ModelConfig(name=f"cifar_resnet{depth}"), 10) == published
    assert 9 * sum(weights) + norms + 64 * 10 + 10 == published


def test_layers_with_weights_are_as_many_as_the_name_says() -> None:
    layers = [m for m in CifarResNet(38).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 38


@pytest.mark.parametrize("depth", [2, 21, 28])
def test_other_depths_are_refused(depth: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"depth={depth}: must be 6 n \+ 2"):
        CifarResNet(depth)


def test_shortcut_takes_every_second_pixel_and_adds_empty_channels() -> None:
    image = torch.arange(9.0).view(1, 1, 3, 3)
    out = ZeroPaddedShortcut(2, 2)(image)
    assert torch.equal(out[0, 0], torch.tensor([[0.0, 2.0], [6.0, 8.0]]))
    assert torch.equal(out[0, 1:], torch.zeros(2, 2, 2))


def test_net_without_its_branches_is_the_stem_seen_through_option_a() -> None:
    net: Any = timm.create_model("cifar_resnet26").eval()
    for module in net.modules():
        if isinstance(module, BasicBlock):
            nn.init.zeros_(module.bn2.weight)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        stem, features = net.stem_norm(net.conv1(images)), net.forward_features(images)
    assert torch.equal(features[:, :16], stem[:, :, ::4, ::4])
    assert torch.equal(features[:, 16:], torch.zeros(2, 48, 8, 8))


def test_dropped_branch_leaves_the_shortcut() -> None:
    images = torch.randn(4, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    block = BasicBlock(16, 16, 1, drop_path=1 - 1e-9).train()
    assert torch.equal(block(images), images.relu())


def test_convolutions_start_as_he_et_al_say() -> None:
    torch.manual_seed(0)
    for module in timm.create_model("cifar_resnet110").modules():
        if isinstance(module, nn.Conv2d) and module.out_channels == 64:
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.05)
            assert module.bias is None


@settings(max_examples=15, deadline=None)
@given(size=st.integers(8, 48))
def test_any_size_from_eight_pixels_works(size: int) -> None:
    net = CifarResNet(8).eval()
    with torch.inference_mode():
        features = net.forward_features(torch.zeros(1, 3, size, size))
        assert features.shape == (1, 64, math.ceil(size / 4), math.ceil(size / 4))
        assert net(torch.zeros(1, 3, size, size)).shape == (1, 10)
