"""Costs of nets as they are published."""

import pytest

from noisystudent_core.config import ModelConfig
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.planning.nets import net_cost


@pytest.mark.parametrize(
    ("name", "px", "giga_multiplications", "mega_parameters"),
    [
        ("tf_efficientnet_b0", 224, 0.39, 5.3),  # Tan and Le 2019, table 2
        ("tf_efficientnet_b7", 600, 37, 66),
        ("tf_efficientnet_l2", 475, 172, 480),  # timm's table of results
        ("resnet18", 224, 1.8, 11.7),
    ],
)
def test_published(name: str, px: int, giga_multiplications: float, mega_parameters: float) -> None:
    cost = net_cost(ModelConfig(name=name, resolution_px=px), 1000)
    assert cost.flops / 2e9 == pytest.approx(giga_multiplications, rel=0.03)
    assert cost.num_parameters / 1e6 == pytest.approx(mega_parameters, rel=0.01)


def test_outputs_of_layers() -> None:
    """ResNet-18's first layers at 32 px: a convolution, its norm and its activation put out 64 x 16 x 16 each."""
    cost = net_cost(ModelConfig(name="resnet18", resolution_px=32), 10)
    assert cost.family == "resnet"
    assert cost.activations > 3 * 64 * 16 * 16
    assert net_cost(ModelConfig(name="resnet18", resolution_px=64), 10).activations > 3 * cost.activations


def test_an_unknown_net_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="efficientnet_b77"):
        net_cost(ModelConfig(name="tf_efficientnet_b77"), 10)
