"""EfficientNets for 32 pixels: timm's nets with two strides changed, and nothing else."""

from typing import Any

import pytest
import timm
import torch

from noisystudent_core.config import ModelConfig
from noisystudent_core.models.architectures import num_parameters

SIZES = range(4)


def shapes(name: str) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {key: tensor.shape for key, tensor in timm.create_model(name, num_classes=10).state_dict().items()}


@pytest.mark.parametrize("size", SIZES)
def test_weights_have_the_names_and_shapes_of_the_original(size: int) -> None:
    assert shapes(f"tf_efficientnet_b{size}_32px") == shapes(f"tf_efficientnet_b{size}")


@pytest.mark.parametrize("size", SIZES)
def test_parameters_are_as_many_as_the_original_s(size: int) -> None:
    own, original = (ModelConfig(name=f"tf_efficientnet_b{size}{suffix}") for suffix in ("_32px", ""))
    assert num_parameters(own, 10) == num_parameters(original, 10)


@pytest.mark.parametrize(("name", "side"), [("tf_efficientnet_b0", 1), ("tf_efficientnet_b0_32px", 4)])
def test_last_feature_map_of_32_pixels(name: str, side: int) -> None:
    net: Any = timm.create_model(name, num_classes=10).eval()
    with torch.inference_mode():
        assert net.forward_features(torch.zeros(1, 3, 32, 32)).shape == (1, 1280, side, side)


@pytest.mark.parametrize("size", [0, 2])
def test_logits_are_the_original_s_with_strides_of_stages_2_and_3_set_to_1(size: int) -> None:
    torch.manual_seed(0)
    original: Any = timm.create_model(f"tf_efficientnet_b{size}", num_classes=10).eval()
    for stage in (1, 2):
        original.blocks[stage][0].conv_dw.stride = (1, 1)
    net: Any = timm.create_model(f"tf_efficientnet_b{size}_32px", num_classes=10).eval()
    net.load_state_dict(original.state_dict())
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(net(images), original(images))


def test_batch_norm_has_the_original_s_epsilon() -> None:
    norms = [m for m in timm.create_model("tf_efficientnet_b0_32px").modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {1e-3}
