"""Checkpoints in timm's own folder layout: `model.safetensors` and `config.json`; never a pickle."""

import json
import tempfile
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
from timm.models._hub import save_config_for_hf
from torch import nn

from noisystudent_core.config.settings import ModelConfig
from noisystudent_core.errors import CorruptArtifactError, LabelError
from noisystudent_core.storage.manifest import Artifact

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def encode(model: nn.Module, config: ModelConfig, class_names: tuple[str, ...] | None = None) -> dict[str, bytes]:
    """The files of a checkpoint; equal weights give equal bytes (no metadata: its order is random).

    `timm.create_model("local-dir:FOLDER", pretrained=True)` loads them without this package; for a net that is ours
    (`cifar_resnet20`, `wrn_28_2`, `tf_efficientnet_b0_32px`, ...) `import noisystudent_core.models` must come first.
    """
    tensors = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
    size = config.resolution_px
    data_config = {"input_size": (3, size, size), "crop_pct": config.crop_fraction, "interpolation": "bicubic"}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / CONFIG
        names = {"label_names": list(class_names)} if class_names else None
        save_config_for_hf(model, str(path), model_config=names, data_config=data_config)
        return {WEIGHTS: safetensors.torch.save(tensors), CONFIG: path.read_bytes()}


def load(
    url: str, num_classes: int | None = None, resolution_px: int | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """The net of a checkpoint artifact, on the CPU in eval mode, and its `config.json`.

    `resolution_px`: for images of this size instead of its own, where the net is made for one size. Raises
    `CorruptArtifactError` if its files changed since the manifest, `LabelError` if `num_classes` is not its own.
    """
    artifact = Artifact.open(url)
    for part in artifact.manifest.parts:
        artifact.read(part)  # checks the digest
    with artifact.folder.local_copy() as folder:
        config = json.loads((folder / CONFIG).read_text())
        if num_classes is not None and config["num_classes"] != num_classes:
            raise LabelError(
                f"{url}: the checkpoint has {config['num_classes']} classes, the data {num_classes}; "
                "give a checkpoint fitted on these classes"
            )
        resized: dict[str, Any] = {}
        if resolution_px is not None and config["pretrained_cfg"].get("fixed_input_size"):
            resized["img_size"] = resolution_px
        try:
            model = timm.create_model(f"local-dir:{folder}", pretrained=True, **resized)
        except (RuntimeError, ValueError) as error:
            raise CorruptArtifactError(f"{url}: timm cannot load this checkpoint ({error})") from error
    return model.eval(), config


def input_geometry(config: dict[str, Any]) -> tuple[int, float]:
    """Resolution in pixels and crop fraction that the checkpoint's images are to be read at."""
    cfg = config["pretrained_cfg"]
    return cfg["input_size"][-1], cfg["crop_pct"]
