"""Checkpoints: equal weights are equal bytes, timm reads them without us, and damage is found."""

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from noisystudent_core.config import FitConfig, InputNoise, ModelConfig, TrainConfig
from noisystudent_core.errors import CorruptArtifactError, LabelError
from noisystudent_core.models import checkpoints
from noisystudent_core.models.architectures import create_model
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import publish_manifest, publish_part

MODEL = ModelConfig(name="test_resnet", resolution_px=32, crop_fraction=0.9)
FIT = FitConfig(num_classes=3, model=MODEL, train=TrainConfig(), noise=InputNoise())


@pytest.fixture
def net() -> nn.Module:
    return create_model(MODEL, 3, 0, 0.1).eval()


def publish(net: nn.Module, url: str, names: tuple[str, ...] | None = None) -> str:
    files = checkpoints.encode(net, MODEL, names)
    parts = tuple(publish_part(Folder.at(url), name, data, 0) for name, data in files.items())
    publish_manifest(url, FIT, {}, parts)
    return url


def logits(net: Any) -> torch.Tensor:
    with torch.inference_mode():
        return net(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))


def test_equal_weights_give_equal_bytes(net: nn.Module) -> None:
    reordered = copy.deepcopy(net).to(memory_format=torch.channels_last)
    assert checkpoints.encode(net, MODEL) == checkpoints.encode(reordered, MODEL)
    assert checkpoints.encode(net, MODEL) != checkpoints.encode(create_model(MODEL, 3, 1, 0.1), MODEL)


def test_weights_hold_no_metadata(net: nn.Module) -> None:
    assert b"__metadata__" not in checkpoints.encode(net, MODEL)["model.safetensors"]


def test_timm_loads_a_checkpoint_without_this_package(net: nn.Module, tmp_path: Path) -> None:
    folder = publish(net, str(tmp_path / "checkpoint"), ("a", "b", "c"))
    loaded: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert torch.equal(logits(loaded), logits(net))
    assert loaded.pretrained_cfg["input_size"] == (3, 32, 32)
    assert loaded.pretrained_cfg["label_names"] == ["a", "b", "c"]


@pytest.mark.parametrize("remote", [False, True])
def test_round_trip(net: nn.Module, tmp_path: Path, remote: bool) -> None:
    url = publish(net, "memory://checkpoints/round-trip" if remote else str(tmp_path / "checkpoint"))
    loaded, config = checkpoints.load(url, 3)
    assert not loaded.training
    assert torch.equal(logits(loaded), logits(net))
    assert checkpoints.input_geometry(config) == (32, 0.9)
    assert checkpoints.encode(loaded, MODEL)["model.safetensors"] == checkpoints.encode(net, MODEL)["model.safetensors"]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_changed_bytes_are_found(net: nn.Module, tmp_path: Path, name: str) -> None:
    url = publish(net, str(tmp_path / "checkpoint"))
    file = tmp_path / "checkpoint" / name
    data = bytearray(file.read_bytes())
    data[-2] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptArtifactError, match=f"part {name} has digest"):
        checkpoints.load(url)


def test_other_classes_are_refused(net: nn.Module, tmp_path: Path) -> None:
    url = publish(net, str(tmp_path / "checkpoint"))
    with pytest.raises(LabelError, match="the checkpoint has 3 classes, the data 10"):
        checkpoints.load(url, 10)
