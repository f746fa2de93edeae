"""The short fit at a larger resolution as a stage: another checkpoint, at the larger size, beside the one before it."""

from collections.abc import Callable

import pytest
import torch

from noisystudent_core import stages
from noisystudent_core.config import EvaluateConfig, FixResolutionConfig, InputNoise
from noisystudent_core.errors import LabelError
from noisystudent_core.models import checkpoints
from noisystudent_core.storage.manifest import Artifact
from tests.stages.small import FIT, Small

FIX = FixResolutionConfig(
    **FIT.model_dump(exclude={"model", "noise"}),
    model=FIT.model.model_copy(update={"resolution_px": 48}),
    noise=InputNoise(num_ops=0, crop="none", flip=False),
    frozen_share=0.5,
)


@pytest.fixture
def data(memory_root: str, write_sources: Callable[[str], dict[str, str]]) -> dict[str, str]:
    return Small(memory_root).prepare_all(write_sources(memory_root))


def test_checkpoint_is_of_the_larger_size_and_keeps_its_shallow_layers(memory_root: str, data: dict[str, str]) -> None:
    small = Small(memory_root)
    teacher = small.teacher(data)
    inputs = {"checkpoint": teacher, "labelled": data["labelled"], "validation": data["validation"]}
    manifest = stages.fix_resolution(FIX, inputs, small.root)
    url = f"{small.root}/checkpoints/{manifest.key}"
    assert url != teacher
    before, _ = checkpoints.load(teacher)
    after, config = checkpoints.load(url)
    assert checkpoints.input_geometry(config) == (48, 1.0)
    states = before.state_dict(), after.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0] if name.startswith("conv1"))
    assert not torch.equal(states[0]["fc.weight"], states[1]["fc.weight"])
    assert manifest.facts["num_steps"] == 3 and "validation/top1" in manifest.facts["final"]
    assert stages.fix_resolution(FIX, inputs, small.root) == manifest  # found again
    measured = stages.evaluate(EvaluateConfig(), {"checkpoint": url, "images": data["test"]}, small.root)
    assert 0 <= measured.facts["metrics"]["top1"] <= 100
    assert Artifact.open(teacher).manifest.content_digest != manifest.content_digest


def test_a_net_made_for_one_size_is_brought_to_the_other(memory_root: str, data: dict[str, str]) -> None:
    small = Small(memory_root)
    net = FIT.model.model_copy(update={"name": "test_vit", "resolution_px": 160, "stochastic_depth": 0.0})
    labelled = {"labelled": data["labelled"], "validation": data["validation"]}
    fitted = small.run("fit", FIT.model_copy(update={"model": net}), labelled)
    larger = FIX.model_copy(update={"model": net.model_copy(update={"resolution_px": 192})})
    manifest = stages.fix_resolution(larger, {"checkpoint": fitted, **labelled}, small.root)
    model, _ = checkpoints.load(f"{small.root}/checkpoints/{manifest.key}")
    assert model(torch.zeros(1, 3, 192, 192)).shape == (1, 3)


def test_a_checkpoint_of_other_classes_is_refused(memory_root: str, data: dict[str, str]) -> None:
    small = Small(memory_root)
    inputs = {"checkpoint": small.teacher(data), "labelled": data["labelled"], "validation": data["validation"]}
    with pytest.raises(LabelError, match="has 3 classes, the data 4"):
        stages.fix_resolution(FIX.model_copy(update={"num_classes": 4}), inputs, small.root)
