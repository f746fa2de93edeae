"""CIFAR ResNets (He et al. 2016, section 4.2), registered with timm as `cifar_resnet20` to `cifar_resnet110`.

timm has no nets for images of 32 pixels. Importing `noisystudent_core.models` makes these known to it, after which
`timm.create_model("cifar_resnet20")` and timm's other calls treat them as its own.
"""

from collections.abc import Callable
from typing import Any

from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from timm.layers.drop import DropPath
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional

from noisystudent_core.errors import ConfigurationError

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of training pixels in 0..1
FEATURES: dict[str, Any] = {"out_indices": (0, 1, 2)}  # of `features_only`: the three stages


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A padded 3x3 convolution without bias: batch norm follows."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


class StagedNet(nn.Module):
    """A 3x3 stem, three stages at full, half and quarter size, pooling and a linear head, with timm's interface.

    Images [B, in_chans, S, S] of S >= 8 pixels become logits [B, num_classes]. `block(in, out, stride, drop)` makes a
    residual block, `num_blocks` a stage; `channels` are those of the stem and of the stages. Batch norm and activation
    follow the stem, or, with `pre_activation`, the last stage. `drop_rate` is the dropout before the head,
    `drop_path_rate` the drop rate of the last block, rate x i / N for block i of N (the paper's section 3.1). He
    initialisation (He et al. 2015, by fan-out); the head as PyTorch makes it.
    """

    def __init__(
        self,
        block: Callable[[int, int, int, float], nn.Module],
        num_blocks: int,
        channels: tuple[int, int, int, int],
        activation: nn.Module,
        *,
        pre_activation: bool = False,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        rates = [drop_path_rate * index / (3 * num_blocks) for index in range(1, 3 * num_blocks + 1)]

        def stage(number: int) -> nn.Sequential:
            own = rates[(number - 1) * num_blocks : number * num_blocks]
            width, stride = channels[number], 1 if number == 1 else 2
            first = block(channels[number - 1], width, stride, own[0])
            return nn.Sequential(first, *(block(width, width, 1, rate) for rate in own[1:]))

        def norm(width: int, present: bool) -> nn.Module:
            return nn.Sequential(nn.BatchNorm2d(width), activation) if present else nn.Identity()

        self.drop_rate = drop_rate
        self.conv1 = conv3x3(in_chans, channels[0])
        self.stem_norm = norm(channels[0], not pre_activation)
        self.layer1, self.layer2, self.layer3 = stage(1), stage(2), stage(3)
        self.final_norm = norm(channels[3], pre_activation)
        self.feature_info = [
            {"num_chs": channels[i], "reduction": 2 ** (i - 1), "module": f"layer{i}"} for i in (1, 2, 3)
        ]
        self.num_features = channels[3]
        self.reset_classifier(num_classes, global_pool)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Where a parameter stands in depth, for layer-wise learning rates; timm's convention."""
        blocks = r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"
        return {"stem": r"^conv1|stem_norm", "blocks": [(blocks, None), (r"^final_norm", (99999,))]}

    def get_classifier(self) -> nn.Module:
        """The head: a Linear, or an Identity where there are no classes."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put in a fresh head for `num_classes` classes, none for 0; `global_pool` as in timm, None keeps it."""
        self.num_classes = num_classes
        pool_type = self.global_pool.pool_type if global_pool is None else global_pool
        self.global_pool = SelectAdaptivePool2d(pool_type=pool_type, flatten=bool(pool_type))
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        weight = self.conv1.weight
        head = nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()
        self.fc = head.to(weight.device, weight.dtype)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images [B, in_chans, S, S] to the last feature map [B, num_features, ceil(S / 4), ceil(S / 4)]."""
        x = self.stem_norm(self.conv1(x))
        return self.final_norm(self.layer3(self.layer2(self.layer1(x))))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """A feature map to logits [B, num_classes], or, with `pre_logits`, to what the head would see."""
        x = functional.dropout(self.global_pool(x), self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        return self.forward_head(self.forward_features(x))


class ZeroPaddedShortcut(nn.Module):
    """Every `stride`-th pixel, new channels zero: the parameter-free option A of He et al. 2016, section 3.3."""

    def __init__(self, stride: int, num_new_channels: int) -> None:
        super().__init__()
        self.stride, self.num_new_channels = stride, num_new_channels

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C + new, ceil(H / stride), ceil(W / stride)]."""
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.num_new_channels))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to the shortcut (He et al. 2016, figure 2)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, drop_path: float) -> None:
        super().__init__()
        same = stride == 1 and in_channels == out_channels
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.act = nn.ReLU(inplace=True)
        self.drop_path = DropPath(drop_path)
        self.shortcut = nn.Identity() if same else ZeroPaddedShortcut(stride, out_channels - in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] to [B, out, H / stride, W / stride], rounded up."""
        branch = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        return self.act(self.drop_path(branch) + self.shortcut(x))


class CifarResNet(StagedNet):
    """A ResNet of `depth` layers, 6 n + 2 of them, with stages of 16, 32 and 64 channels and n blocks each.

    Raises ConfigurationError for another depth. Source: He et al. 2016, section 4.2.
    """

    def __init__(self, depth: int, **kwargs: Any) -> None:
        if depth < 8 or depth % 6 != 2:
            raise ConfigurationError(f"depth={depth}: must be 6 n + 2; the paper has 20, 32, 44, 56 and 110")
        super().__init__(BasicBlock, (depth - 2) // 6, (16, 16, 32, 64), nn.ReLU(inplace=True), **kwargs)


def input_settings(**changes: Any) -> dict[str, Any]:
    """timm's record of a net for CIFAR-10: 32 pixels, uncropped, no published weights."""
    settings = {
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "min_input_size": (3, 8, 8),
        "pool_size": (8, 8),
        "crop_pct": 1.0,
        "mean": CIFAR10_MEAN,
        "std": CIFAR10_STD,
        "first_conv": "conv1",
        "classifier": "fc",
    }
    return settings | changes


# timm reads this name from the module that registers a net
default_cfgs = generate_default_cfgs({f"cifar_resnet{d}": input_settings() for d in (20, 26, 32, 38, 44, 56, 110)})


def _build(depth: int, pretrained: bool, **kwargs: Any) -> CifarResNet:
    return build_model_with_cfg(
        CifarResNet, f"cifar_resnet{depth}", pretrained, feature_cfg=dict(FEATURES), depth=depth, **kwargs
    )


@register_model
def cifar_resnet20(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-20: 0.27M parameters."""
    return _build(20, pretrained, **kwargs)


@register_model
def cifar_resnet26(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-26: 0.37M parameters."""
    return _build(26, pretrained, **kwargs)


@register_model
def cifar_resnet32(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-32: 0.46M parameters."""
    return _build(32, pretrained, **kwargs)


@register_model
def cifar_resnet38(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-38: 0.56M parameters."""
    return _build(38, pretrained, **kwargs)


@register_model
def cifar_resnet44(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-44: 0.66M parameters."""
    return _build(44, pretrained, **kwargs)


@register_model
def cifar_resnet56(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-56: 0.85M parameters."""
    return _build(56, pretrained, **kwargs)


@register_model
def cifar_resnet110(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-110: 1.7M parameters."""
    return _build(110, pretrained, **kwargs)
