"""Shallow layers stay as they are, parameters and batch-norm statistics, while deep ones learn."""

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from noisystudent_core.config import FitConfig
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.training import loop
from noisystudent_core.training.resolution import freeze_shallow
from tests.training.small import build, fit_config, labelled, resident


def fitted(config: FitConfig, share: float, folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """State of the net before and after a short fit with the first `share` of its layers frozen."""
    net = build(config)
    before = {name: tensor.clone() for name, tensor in net.net.state_dict().items()}
    state = loop.start(net, config)
    freeze_shallow(net.net, share)
    batches = resident(config, labelled(), None)
    loop.fit(state, config, batches, 12, lambda _: {}, lambda event, **fields: None, Folder.at(str(folder)))
    return before, net.net.state_dict()


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_frozen_layers_keep_parameters_and_statistics_and_the_others_learn(share: float, tmp_path: Path) -> None:
    config = fit_config(dropout=0.1, stochastic_depth=0.1)
    before, after = fitted(config, share, tmp_path)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"fc.weight", "fc.bias"} <= changed
    stem = {name for name in before if name.startswith(("conv1", "bn1"))}
    last = {name for name in before if name.startswith("layer4") and name.endswith(("running_mean", "weight"))}
    assert bool(changed & stem) == (share == 0)
    assert bool(changed & last) == (share < 1)
    if share == 1:
        assert changed == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("name", ["tf_efficientnet_b0", "test_vit", "test_convnext", "cifar_resnet20"])
def test_layers_freeze_by_depth_on_any_timm_net(name: str) -> None:
    net = timm.create_model(name, num_classes=3).train()
    frozen = set(freeze_shallow(net, 0.5))
    named = dict(net.named_parameters())
    assert 0 < len(frozen) < len(named)
    assert all(parameter.requires_grad == (name not in frozen) for name, parameter in named.items())
    first, *_, last = named
    assert first in frozen and last not in frozen
    norms = {name: module for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert all(module.training == (f"{name}.weight" not in frozen) for name, module in norms.items())


def test_a_net_that_does_not_tell_its_layers_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="Linear does not tell its layers by depth"):
        freeze_shallow(nn.Linear(2, 2), 0.5)
