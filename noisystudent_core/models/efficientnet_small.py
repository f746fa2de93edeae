"""EfficientNets for images of 32 pixels, known to timm as `tf_efficientnet_b0_32px` to `tf_efficientnet_b3_32px`.

Stages 2 and 3 have stride 1 instead of 2 (the reference's `small_image_model`), counted from 1: the stages of 24 and of
40 channels in B0. The stem keeps its stride of 2, so that 32 pixels end as 4 x 4 instead of 1 x 1. Parameters and their
names are those of timm's `tf_efficientnet_b*`, whose weights fit. The reference normalises SVHN by its own mean and
deviation; here they are ImageNet's, as in timm.
"""

from functools import partial
from typing import Any

from timm.layers.create_act import get_act_layer
from timm.models import EfficientNet, build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._efficientnet_builder import BN_EPS_TF_DEFAULT, decode_arch_def, round_channels
from torch import nn

from noisystudent_core.models.cifar_resnet import input_settings

# timm's notation, a stage a row: blocks, kernel, stride, expansion, channels; s1 in stages 2 and 3 is the difference
STAGES = [
    ["ds_r1_k3_s1_e1_c16_se0.25"],
    ["ir_r2_k3_s1_e6_c24_se0.25"],
    ["ir_r2_k5_s1_e6_c40_se0.25"],
    ["ir_r3_k3_s2_e6_c80_se0.25"],
    ["ir_r3_k5_s1_e6_c112_se0.25"],
    ["ir_r4_k5_s2_e6_c192_se0.25"],
    ["ir_r1_k3_s1_e6_c320_se0.25"],
]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # as timm's tf_efficientnet_b*

# timm reads this name from the module that registers a net
default_cfgs = generate_default_cfgs(
    {
        f"tf_efficientnet_b{size}_32px": input_settings(
            pool_size=(4, 4), mean=IMAGENET_MEAN, std=IMAGENET_STD, first_conv="conv_stem", classifier="classifier"
        )
        for size in range(4)
    }
)


def _build(name: str, pretrained: bool, width: float, depth: float, **kwargs: Any) -> EfficientNet:
    """`width` and `depth` multiply B0's channels and blocks (METHOD section 4)."""
    channels = partial(round_channels, multiplier=width)
    return build_model_with_cfg(
        EfficientNet,
        name,
        pretrained,
        block_args=decode_arch_def(STAGES, depth),
        num_features=channels(1280),
        round_chs_fn=channels,
        act_layer=get_act_layer("swish"),
        norm_layer=partial(nn.BatchNorm2d, eps=BN_EPS_TF_DEFAULT),
        pad_type="same",
        **kwargs,
    )


@register_model
def tf_efficientnet_b0_32px(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-B0 for 32 pixels."""
    return _build("tf_efficientnet_b0_32px", pretrained, 1.0, 1.0, **kwargs)


@register_model
def tf_efficientnet_b1_32px(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-B1 for 32 pixels."""
    return _build("tf_efficientnet_b1_32px", pretrained, 1.0, 1.1, **kwargs)


@register_model
def tf_efficientnet_b2_32px(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-B2 for 32 pixels."""
    return _build("tf_efficientnet_b2_32px", pretrained, 1.1, 1.2, **kwargs)


@register_model
def tf_efficientnet_b3_32px(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-B3 for 32 pixels."""
    return _build("tf_efficientnet_b3_32px", pretrained, 1.2, 1.4, **kwargs)
