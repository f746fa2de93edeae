"""timm architectures, made to the paper's settings, and their checkpoints.

Importing this package registers our own nets with timm; without it a checkpoint of one of them is unknown to
`timm.create_model("local-dir:FOLDER", pretrained=True)`.
"""

from noisystudent_core.models import cifar_resnet, efficientnet_small, wide_resnet

__all__ = ["cifar_resnet", "efficientnet_small", "wide_resnet"]
