"""Models that are taken without a fit: published weights as a checkpoint, which labels as any other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from noisystudent_core import stages
from noisystudent_core.config import AdoptConfig, ModelConfig
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.models import checkpoints
from noisystudent_core.storage.manifest import Artifact
from tests.stages.small import FIT, LABELS, NUM_CLASSES, Small

WriteSources = Callable[[str], dict[str, str]]


@pytest.fixture
def weights(tmp_path: Path) -> str:
    """A safetensors file of a net of three classes, as somebody may have downloaded it."""
    torch.manual_seed(9)
    file = str(tmp_path / "weights.safetensors")
    save_file(timm.create_model("test_resnet", num_classes=NUM_CLASSES).state_dict(), file)
    return file


def adopt(root: str, weights: str, num_classes: int = NUM_CLASSES) -> str:
    model = FIT.model.model_copy(update={"weights": weights})
    config = AdoptConfig(num_classes=num_classes, model=model, class_names=tuple("abc"))
    return Small(root).run("adopt", config, {"weights": weights})


def test_checkpoint_is_the_weights_as_they_are(root: str, weights: str) -> None:
    url = adopt(root, weights)
    net, config = checkpoints.load(url, NUM_CLASSES)
    torch.manual_seed(9)
    published = timm.create_model("test_resnet", num_classes=NUM_CLASSES).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(net(images), published(images))
    assert checkpoints.input_geometry(config) == (32, 1.0)
    assert config["label_names"] == ["a", "b", "c"]


def test_lineage_is_in_the_manifest(root: str, weights: str) -> None:
    manifest = Artifact.open(adopt(root, weights), "checkpoints").manifest
    assert (manifest.stage, manifest.config["model"]["weights"]) == ("adopt", weights)
    assert list(manifest.inputs) == ["weights"]
    assert manifest.facts == {"num_parameters": 372_979, "input": [32, 1.0]}


def test_it_labels_images(root: str, weights: str, write_sources: WriteSources) -> None:
    small = Small(root)
    data = small.prepare_all(write_sources(root))
    labelled = small.run("predict", LABELS, {"checkpoint": adopt(root, weights), "images": data["unlabelled"]})
    assert Artifact.open(labelled).manifest.num_rows == 30


def test_head_of_other_classes_is_refused(root: str, weights: str) -> None:
    with pytest.raises(ConfigurationError, match=r"a head of 3 classes, the data have 5: without a fit its labels"):
        adopt(root, weights, num_classes=5)


def test_net_without_weights_is_refused(root: str) -> None:
    config: Any = AdoptConfig(num_classes=3, model=ModelConfig(name="test_resnet"))
    with pytest.raises(ConfigurationError, match="a head of no classes"):
        stages.adopt(config, {}, root)


def test_weights_may_keep_the_size_they_were_published_for(root: str, weights: str) -> None:
    config = AdoptConfig(
        num_classes=3, model=ModelConfig(name="test_resnet", resolution_px=32, weights=weights), own_geometry=True
    )
    manifest = stages.adopt(config, {"weights": weights}, root)
    assert manifest.facts["input"] == [160, 0.95]  # as timm tests this net
    _, description = checkpoints.load(f"{root}/checkpoints/{manifest.key}")
    assert checkpoints.input_geometry(description) == (160, 0.95)
