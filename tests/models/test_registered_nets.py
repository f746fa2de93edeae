"""Our own nets behave as timm's: names, input settings, heads, model noise, checkpoints."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.optim._param_groups import param_groups_layer_decay
from torch import Tensor, nn

from noisystudent_core.config import ModelConfig
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.models import checkpoints
from noisystudent_core.models.architectures import check_name, create_model
from noisystudent_core.noise.model_noise import check_model_noise, drop_rates, head_dropout, noise_model
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import publish_manifest, publish_part
from tests.models.test_checkpoints import FIT

RESNETS = ["cifar_resnet20", "wrn_28_2"]
NUM_BLOCKS = {"cifar_resnet20": 9, "cifar_resnet38": 18, "wrn_28_2": 12, "tf_efficientnet_b0_32px": 9}
NETS = ["cifar_resnet20", "wrn_28_2", "tf_efficientnet_b0_32px"]


def images(num: int = 2, channels: int = 3) -> Tensor:
    return torch.randn(num, channels, 32, 32, generator=torch.Generator().manual_seed(1))


def seen(net: nn.Module, num_runs: int) -> list[Tensor]:
    """Outputs with noise alone: batch norm in evaluation, its weights at 1 where timm starts them at 0."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            module.eval()
    with torch.no_grad():
        return [net(images(4)) for _ in range(num_runs)]


def saved(name: str, folder: Path) -> tuple[str, nn.Module]:
    model = ModelConfig(name=name, resolution_px=32, crop_fraction=1.0)
    net = create_model(model, 3, 0, 0.1).eval()
    files = checkpoints.encode(net, model)
    url = str(folder / "checkpoint")
    parts = tuple(publish_part(Folder.at(url), file, data, 0) for file, data in files.items())
    publish_manifest(url, FIT, {}, parts)
    return url, net


@pytest.mark.parametrize("name", NUM_BLOCKS)
def test_names_are_known(name: str) -> None:
    check_name(name)


def test_a_misspelt_name_is_answered_with_ours() -> None:
    with pytest.raises(ConfigurationError, match=r"similar: .*cifar_resnet20"):
        check_name("cifar_resnet21")


def test_a_tag_is_an_error_for_nets_without_published_weights() -> None:
    with pytest.raises(ConfigurationError, match="no such tag of weights; there are none"):
        check_name("cifar_resnet20.c10")
    with pytest.raises(ConfigurationError, match="No pretrained weights exist for cifar_resnet20"):
        create_model(ModelConfig(name="cifar_resnet20", pretrained=True), 10, 0, 0.1)


@pytest.mark.parametrize("name", NETS)
def test_input_settings_are_those_of_32_pixels(name: str) -> None:
    settings = resolve_model_data_config(timm.create_model(name))
    assert settings["input_size"] == (3, 32, 32)
    assert settings["crop_pct"] == 1.0
    cifar = name in RESNETS
    assert settings["mean"] == ((0.4914, 0.4822, 0.4465) if cifar else (0.485, 0.456, 0.406))
    assert settings["std"] == ((0.2470, 0.2435, 0.2616) if cifar else (0.229, 0.224, 0.225))


@pytest.mark.parametrize("name", NETS)
def test_head_can_be_read_replaced_and_left_out(name: str) -> None:
    net: Any = timm.create_model(name, num_classes=10).eval()
    width = net.num_features
    with torch.inference_mode():
        features = net.forward_features(images())
        pooled = net.forward_head(features, pre_logits=True)
        torch.testing.assert_close(pooled, features.mean((2, 3)))
        torch.testing.assert_close(net(images()), net.get_classifier()(pooled))
        net.reset_classifier(3)
        assert net.get_classifier().weight.shape == (3, width)
        assert net(images()).shape == (2, 3)
        assert net.num_classes == 3
        net.reset_classifier(0)
        torch.testing.assert_close(net(images()), pooled)
        net.reset_classifier(0, "")
        torch.testing.assert_close(net(images()), features)


@pytest.mark.parametrize("name", RESNETS)
def test_stages_are_given_as_features(name: str) -> None:
    width = 16 if name == "cifar_resnet20" else 32
    net: Any = timm.create_model(name, features_only=True, in_chans=1)
    expected = [(2, width << i, 32 >> i, 32 >> i) for i in range(3)]
    assert [tuple(stage.shape) for stage in net(images(channels=1))] == expected
    assert net.feature_info.reduction() == [1, 2, 4]


@pytest.mark.parametrize(("name", "num_blocks"), NUM_BLOCKS.items())
def test_model_noise_is_the_paper_s(name: str, num_blocks: int) -> None:
    net = timm.create_model(name)
    noise_model(net, dropout=0.5, stochastic_depth=0.2)
    assert drop_rates(net) == [0.2 * i / num_blocks for i in range(1, num_blocks + 1)]
    assert head_dropout(net) == 0.5


@pytest.mark.parametrize("name", RESNETS)
def test_timm_s_own_arguments_give_the_paper_s_noise(name: str) -> None:
    check_model_noise(timm.create_model(name, drop_rate=0.5, drop_path_rate=0.2), 0.5, 0.2)


@pytest.mark.parametrize("rates", [(0.5, 0.0), (0.0, 0.2)], ids=["dropout", "depth"])
@pytest.mark.parametrize("name", NETS)
def test_each_noise_is_felt_in_training_and_not_in_evaluation(name: str, rates: tuple[float, float]) -> None:
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=10)
    clean = seen(net.eval(), 1)[0]
    noise_model(net, *rates)
    noisy = seen(net.train(), 4)
    assert any(not torch.equal(noisy[0], other) for other in noisy[1:])
    assert torch.equal(seen(net.eval(), 1)[0], clean)


@pytest.mark.parametrize("name", RESNETS)
def test_learning_rates_fall_layer_by_layer_from_the_head_down(name: str) -> None:
    net = timm.create_model(name)
    scales: dict[int, float] = {
        id(parameter): group["lr_scale"]
        for group in param_groups_layer_decay(net, layer_decay=0.5)
        for parameter in group["params"]
    }
    blocks = NUM_BLOCKS[name]
    parameters = dict(net.named_parameters())
    assert scales[id(parameters["fc.weight"])] == 1
    assert scales[id(parameters["layer3.0.conv1.weight"])] == 0.5 ** (blocks // 3)
    assert scales[id(parameters["conv1.weight"])] == 0.5 ** (blocks + 1)


@pytest.mark.parametrize("name", NETS)
def test_checkpoint_round_trip(name: str, tmp_path: Path) -> None:
    url, net = saved(name, tmp_path)
    loaded, config = checkpoints.load(url, 3)
    assert config["architecture"] == name
    assert checkpoints.input_geometry(config) == (32, 1.0)
    with torch.inference_mode():
        assert torch.equal(loaded(images()), net(images()))


def test_timm_reads_a_checkpoint_of_ours_once_this_package_is_imported(tmp_path: Path) -> None:
    url, net = saved("cifar_resnet20", tmp_path)
    code = (
        "import sys, timm, torch; assert not timm.is_model('cifar_resnet20'); import noisystudent_core.models;"
        "net = timm.create_model('local-dir:' + sys.argv[1], pretrained=True).eval();"
        "print(net(torch.ones(1, 3, 32, 32)).sum().item())"
    )
    done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, check=True)
    with torch.inference_mode():
        assert float(done.stdout) == pytest.approx(net(torch.ones(1, 3, 32, 32)).sum().item(), abs=1e-4)
