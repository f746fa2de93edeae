"""Wide ResNets (Zagoruyko and Komodakis 2016), registered with timm as `wrn_28_2`, `wrn_28_2_leaky`, `wrn_28_10`.

The activation is the paper's ReLU. Work on few labels (Oliver et al. 2018, FixMatch) fits WRN-28-2 with a leaky ReLU of
slope 0.1, here a name of its own: a checkpoint records names, not arguments.
"""

from functools import partial
from typing import Any

from timm.layers.drop import DropPath
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from noisystudent_core.errors import ConfigurationError
from noisystudent_core.models.cifar_resnet import FEATURES, StagedNet, conv3x3, input_settings


class PreActivationBlock(nn.Module):
    """Batch norm and activation before each of two 3x3 convolutions; a 1x1 shortcut where the shape changes.

    The 1x1 convolution sees the first activation, as in the authors' code; elsewhere the shortcut is the raw input.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, drop_path: float, *, negative_slope: float
    ) -> None:
        super().__init__()
        self.changes_shape = stride != 1 or in_channels != out_channels
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.act = _activation(negative_slope)
        self.drop_path = DropPath(drop_path)
        projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.shortcut = projection if self.changes_shape else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] to [B, out, H / stride, W / stride], rounded up."""
        activated = self.act(self.bn1(x))
        branch = self.conv2(self.act(self.bn2(self.conv1(activated))))
        return self.drop_path(branch) + self.shortcut(activated if self.changes_shape else x)


class WideResNet(StagedNet):
    """A pre-activation ResNet of `depth` layers, 6 n + 4 of them, `width` times as wide as the CIFAR ResNets.

    A `negative_slope` of 0 is ReLU. The paper's dropout inside the blocks is left out; `drop_rate` acts before the
    head. Raises ConfigurationError for another depth. Source: Zagoruyko and Komodakis 2016, table 1.
    """

    def __init__(self, depth: int, width: int, negative_slope: float = 0.0, **kwargs: Any) -> None:
        if depth < 10 or depth % 6 != 4:
            raise ConfigurationError(f"depth={depth}: must be 6 n + 4; the paper has 16, 22, 28 and 40")
        block = partial(PreActivationBlock, negative_slope=negative_slope)
        channels = (16, 16 * width, 32 * width, 64 * width)
        activation = _activation(negative_slope)
        super().__init__(block, (depth - 4) // 6, channels, activation, pre_activation=True, **kwargs)


def _activation(negative_slope: float) -> nn.Module:
    return nn.LeakyReLU(negative_slope, inplace=True) if negative_slope else nn.ReLU(inplace=True)


# timm reads this name from the module that registers a net
default_cfgs = generate_default_cfgs({name: input_settings() for name in ("wrn_28_2", "wrn_28_2_leaky", "wrn_28_10")})


def _build(name: str, pretrained: bool, **kwargs: Any) -> WideResNet:
    return build_model_with_cfg(WideResNet, name, pretrained, feature_cfg=dict(FEATURES), **kwargs)


@register_model
def wrn_28_2(pretrained: bool = False, **kwargs: Any) -> WideResNet:
    """WRN-28-2: 1.47M parameters."""
    return _build("wrn_28_2", pretrained, depth=28, width=2, negative_slope=0.0, **kwargs)


@register_model
def wrn_28_2_leaky(pretrained: bool = False, **kwargs: Any) -> WideResNet:
    """WRN-28-2 with a leaky ReLU of slope 0.1 (Oliver et al. 2018)."""
    return _build("wrn_28_2_leaky", pretrained, depth=28, width=2, negative_slope=0.1, **kwargs)


@register_model
def wrn_28_10(pretrained: bool = False, **kwargs: Any) -> WideResNet:
    """WRN-28-10: 36.5M parameters."""
    return _build("wrn_28_10", pretrained, depth=28, width=10, negative_slope=0.0, **kwargs)
