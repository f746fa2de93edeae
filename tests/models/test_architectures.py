"""Nets as the paper's settings make them: a quiet head, local weights, batch norm, and names that are checked."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from noisystudent_core.config import ModelConfig
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.models.architectures import (
    Normalised,
    check_name,
    create_model,
    head_classes,
    num_parameters,
    start_from,
)

SEED = 1
# counted by timm; Tan and Le 2019, table 2, rounds B0 to B7 to 5.3M .. 66M, and L2 is known for 480M
EFFICIENTNETS = {
    "b0": 5_288_548,
    "b1": 7_794_184,
    "b2": 9_109_994,
    "b3": 12_233_232,
    "b4": 19_341_616,
    "b5": 30_389_784,
    "b6": 43_040_704,
    "b7": 66_347_960,
    "l2": 480_309_308,
}


def make(num_classes: int = 10, seed: int = SEED, momentum: float = 0.01, **settings: Any) -> Any:
    config = ModelConfig(**{"name": "test_resnet", "resolution_px": 32, **settings})
    return create_model(config, num_classes, seed, momentum)


def published_weights(folder: Path, num_classes: int) -> tuple[str, nn.Module]:
    """A safetensors file as somebody may have downloaded it, and the net in it."""
    torch.manual_seed(9)
    model = timm.create_model("test_resnet", num_classes=num_classes)
    save_file(model.state_dict(), str(folder / "weights.safetensors"))
    return str(folder / "weights.safetensors"), model


def test_fresh_head_is_scaled_down_for_few_classes() -> None:
    torch.manual_seed(SEED)
    own = timm.create_model("test_efficientnet", num_classes=10).get_parameter("classifier.weight")
    ours = make(name="test_efficientnet").get_classifier().weight
    assert own.abs().max() > 0.3  # timm: uniform within 1/sqrt(10)
    assert ours.abs().max().item() == pytest.approx(0.0316)
    torch.testing.assert_close(ours, own * (0.0316 / own.abs().max()))


def test_head_that_is_small_enough_is_kept() -> None:
    torch.manual_seed(SEED)
    own = timm.create_model("test_resnet", num_classes=10).get_parameter("fc.weight")
    assert torch.equal(make(head_init_range=1.0).get_classifier().weight, own)


def test_untrained_net_passes_no_filter_of_ten_classes() -> None:
    net = Normalised(make(name="test_efficientnet", dropout=0, stochastic_depth=0)).eval()
    images = torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert net(images).softmax(1).max() < 0.3


def test_equal_seeds_give_equal_weights() -> None:
    first, second, other = make().state_dict(), make().state_dict(), make(seed=2).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["fc.weight"], other["fc.weight"])


def test_local_weights_of_other_classes_give_the_trunk_and_a_fresh_quiet_head(tmp_path: Path) -> None:
    file, published = published_weights(tmp_path, num_classes=7)
    net = make(num_classes=3, weights=file)
    trunk = {name: tensor for name, tensor in published.state_dict().items() if not name.startswith("fc.")}
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in trunk.items())
    assert net.fc.weight.shape == (3, 96)
    assert net.fc.weight.abs().max() <= 0.0316 + 1e-6


def test_local_weights_of_the_same_classes_are_taken_whole(tmp_path: Path) -> None:
    file, published = published_weights(tmp_path, num_classes=3)
    net = make(num_classes=3, weights=file)
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in published.state_dict().items())


@pytest.mark.parametrize("content", [None, b"no safetensors"])
def test_weights_that_are_missing_or_of_another_format_are_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "weights.safetensors"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"weights=.*weights\.safetensors.*give a safetensors file"):
        make(weights=str(file))


def test_net_begins_with_its_teacher_s_weights_whatever_their_noise() -> None:
    net, teacher = make(seed=1, stochastic_depth=0.2), make(seed=2, dropout=0.0, stochastic_depth=0.0)
    teacher.bn1.running_mean += 1
    start_from(net, teacher)
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in teacher.state_dict().items())


@pytest.mark.parametrize("teacher", [{"name": "test_convnext"}, {"num_classes": 7}], ids=["net", "classes"])
def test_net_does_not_begin_with_another_s_weights(teacher: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"warm_start: the teacher's weights do not fit \(.+\); a student"):
        start_from(make(), make(**teacher))


def test_classes_of_published_heads(tmp_path: Path) -> None:
    file, _ = published_weights(tmp_path, num_classes=7)
    models = [{}, {"weights": file}, {"name": "tf_efficientnet_l2.ns_jft_in1k_475", "pretrained": True}]
    assert [head_classes(ModelConfig(**{"name": "test_resnet", **model})) for model in models] == [None, 7, 1000]


def test_weights_of_another_architecture_are_named(tmp_path: Path) -> None:
    file, _ = published_weights(tmp_path, num_classes=3)
    with pytest.raises(ConfigurationError, match=r"not contain tensor head\.fc\.weight"):
        make(name="test_convnext", weights=file)


def test_batch_norm_momentum_is_set_everywhere() -> None:
    norms = [m for m in make(momentum=0.01).modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) > 10
    assert {norm.momentum for norm in norms} == {0.01}


def test_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match=r"'test_resnett'.*no such architecture; similar: test_resnet,"):
        check_name("test_resnett")


def test_unknown_tag_of_weights_is_an_error() -> None:
    with pytest.raises(
        ConfigurationError, match=r"'test_resnet\.by_nobody'.*no such tag.*there are test_resnet\.r160_in1k"
    ):
        make(name="test_resnet.by_nobody")


def test_parameters_are_counted_as_timm_counts_them() -> None:
    assert num_parameters(ModelConfig(name="tf_efficientnet_b0"), 1000) == 5_288_548
    assert num_parameters(ModelConfig(name="tf_efficientnet_b0"), 10) == 5_288_548 - 990 * 1281
    built = sum(parameter.numel() for parameter in make(num_classes=3).parameters())
    assert num_parameters(ModelConfig(name="test_resnet"), 3) == built == 372_979


@pytest.mark.parametrize(("name", "published"), EFFICIENTNETS.items())
def test_parameters_of_the_paper_s_nets(name: str, published: int) -> None:
    assert num_parameters(ModelConfig(name=f"tf_efficientnet_{name}"), 1000) == published


def test_images_are_normalised_with_the_net_s_own_mean_and_deviation() -> None:
    class Seen(nn.Module):
        pretrained_cfg = {"mean": (0.5, 0.25, 0.0), "std": (0.5, 0.5, 1.0)}  # noqa: RUF012 (as on timm's models)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs

    image = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = torch.tensor([-1.0, -0.1, 1.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(Normalised(Seen())(image), expected)
