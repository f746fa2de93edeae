"""Whole configurations as functions; every recipe takes `shrink`, a factor on images and steps for tests and trials."""

from noisystudent_core.recipes.catalogue import RECIPES, SHORTCUTS, configure
from noisystudent_core.recipes.everyday import EXAMPLES, digits, finetune
from noisystudent_core.recipes.imagenet import (
    imagenet_b0,
    imagenet_b1,
    imagenet_b2,
    imagenet_b3,
    imagenet_b4,
    imagenet_b5,
    imagenet_b6,
    imagenet_b7,
    imagenet_l2,
)
from noisystudent_core.recipes.small_images import cifar10, cifar10_mismatched, cifar10_wrn, svhn

__all__ = [
    "EXAMPLES",
    "RECIPES",
    "SHORTCUTS",
    "cifar10",
    "cifar10_mismatched",
    "cifar10_wrn",
    "configure",
    "digits",
    "finetune",
    "imagenet_b0",
    "imagenet_b1",
    "imagenet_b2",
    "imagenet_b3",
    "imagenet_b4",
    "imagenet_b5",
    "imagenet_b6",
    "imagenet_b7",
    "imagenet_l2",
    "svhn",
]
