"""The operations of each dialect against the library that defines them: timm on PIL, torchvision."""

from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment
from torch import Tensor
from torchvision.transforms.v2 import RandAugment as TorchvisionRandAugment

from noisystudent_core.noise.dialects import DIALECTS
from noisystudent_core.noise.randaugment import apply_op
from tests.noise.pictures import images_of

SIZES = [(8, 8), (9, 13), (32, 32), (64, 48)]
SAMPLINGS: list[Literal["bilinear", "bicubic"]] = ["bilinear", "bicubic"]
TIMM, TORCHVISION = DIALECTS["timm"].rules, DIALECTS["torchvision"].rules


def differ(ours: Tensor, theirs: Tensor) -> int:
    """The largest difference in grey levels."""
    return int((ours.int() - theirs.int()).abs().max())


def torchvision_op(images: Tensor, name: str, level: int, sign: int) -> Tensor:
    """torchvision's own dispatch, its random draws replaced by `name` and `sign`."""
    magnitudes_of, signed = TorchvisionRandAugment._AUGMENTATION_SPACE[name]
    magnitudes = magnitudes_of(31, *images.shape[-2:])
    magnitude = 0.0 if magnitudes is None else float(magnitudes[level]) * (sign if signed else 1)
    transform = TorchvisionRandAugment()
    noised = transform._apply_image_or_video_transform(images, name, magnitude, "nearest", transform._fill)
    assert isinstance(noised, Tensor)
    return noised


def timm_op(image: Tensor, name: str, level: float, resample: Image.Resampling) -> Tensor:
    """timm's own operation on a PIL image, uint8 [C, H, W]; its random sign is the caller's to replace."""
    grey = image.shape[0] == 1
    picture = Image.fromarray(image[0].numpy() if grey else image.permute(1, 2, 0).numpy())
    hparams = {"img_mean": 128 if grey else (128, 128, 128), "interpolation": resample}
    noised = np.asarray(auto_augment.AugmentOp(name, prob=1.0, magnitude=level, hparams=hparams)(picture))  # pyright: ignore[reportArgumentType]
    return torch.from_numpy(noised.copy()).view(*image.shape[1:], -1).permute(2, 0, 1)


def test_operations_are_torchvisions() -> None:
    space = TorchvisionRandAugment._AUGMENTATION_SPACE
    assert {name: rule.signed for name, rule in TORCHVISION.items()} == {
        name: entry[1] for name, entry in space.items()
    }


def test_operations_and_probability_are_timms() -> None:
    transform = auto_augment.rand_augment_transform("rand-m9-n2", {})
    assert isinstance(transform, auto_augment.RandAugment)
    assert [operation.name for operation in transform.ops] == list(TIMM)
    assert {operation.prob for operation in transform.ops} == {DIALECTS["timm"].probability}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_within_one_grey_level(name: str, channels: int) -> None:
    for height, width in SIZES:
        images = images_of(channels, height, width)
        for level in (0, 1, 9, 20, 27, 30):
            for sign in (1, -1):
                ours = apply_op(images, name, level, sign, "torchvision")
                assert differ(ours, torchvision_op(images, name, level, sign)) <= 1, (height, width, level, sign)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", TIMM)
def test_timm_within_one_grey_level(name: str, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    warps = TIMM[name].bicubic is not None
    for sign in (1, -1) if TIMM[name].signed else (1,):
        monkeypatch.setattr(auto_augment, "_randomly_negate", lambda value, sign=sign: sign * value)
        for height, width in SIZES:
            images = images_of(channels, height, width)
            for level in (0, 1, 4.5, 9, 10, 27):
                if name == "Posterize" and level < 2.5:
                    continue  # no bit is left: Pillow refuses what it once made black
                for interpolation in SAMPLINGS if warps else SAMPLINGS[:1]:
                    resample = Image.Resampling[interpolation.upper()]
                    theirs = torch.stack([timm_op(image, name, level, resample) for image in images])
                    ours = apply_op(images, name, level, sign, "timm", interpolation=interpolation)
                    assert differ(ours, theirs) <= 1, (height, width, level, sign, interpolation)


@pytest.mark.parametrize("name", ["Brightness", "Color", "Contrast", "Sharpness", "Rotate", "ShearX", "TranslateY"])
def test_torchvision_at_level_zero_changes_nothing(name: str) -> None:
    images = images_of(3, 16, 16)
    assert torch.equal(apply_op(images, name, 0, dialect="torchvision"), images)


def test_timm_at_level_zero() -> None:
    images = images_of(3, 16, 16)
    for name in ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel", "SolarizeAdd"):
        assert torch.equal(apply_op(images, name, 0, dialect="timm"), images), name
    assert (apply_op(images, "Posterize", 0, dialect="timm") == 0).all()  # no bit is left
    assert torch.equal(apply_op(images, "Solarize", 0, dialect="timm"), 255 - images)
    assert differ(apply_op(images, "Brightness", 0, dialect="timm"), (images * 0.1).to(torch.uint8)) <= 1


def test_timm_clamps_at_ten() -> None:
    images = images_of(3, 16, 16)
    for name in TIMM:
        assert torch.equal(apply_op(images, name, 27, dialect="timm"), apply_op(images, name, 10, dialect="timm"))
