"""Students that begin with weights they are given: a warm start, and fine-tuning on labelled images alone."""

import pytest
import torch

from noisystudent_core.config import FitConfig
from noisystudent_core.errors import ConfigurationError, LabelError
from noisystudent_core.models import checkpoints
from noisystudent_core.storage.manifest import Artifact
from tests.stages.small import FIT, Small

STILL = FIT.train.model_copy(update={"steps": 1, "ema_decay": 0.0})  # one step so small that weights stay


def still(**train: object) -> FitConfig:
    optimizer = STILL.optimizer.model_copy(update={"learning_rate": 1e-12})
    return FIT.model_copy(update={"train": STILL.model_copy(update={"optimizer": optimizer, **train}), "seed": 5})


def weights(url: str) -> torch.Tensor:
    net, _ = checkpoints.load(url)
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


def test_fit_goes_on_from_the_weights_it_is_given(small: Small, data: dict[str, str]) -> None:
    inputs = {"labelled": data["labelled"], "validation": data["validation"]}
    teacher = small.teacher(data)
    warm = small.run("fit", still(), {**inputs, "initial": teacher})
    fresh = small.run("fit", still(), inputs)
    torch.testing.assert_close(weights(warm), weights(teacher))
    assert (weights(fresh) - weights(teacher)).abs().max() > 0.01
    assert Artifact.open(warm).manifest.inputs["initial"] == Artifact.open(teacher).manifest.content_digest


def test_weights_of_another_net_are_refused(small: Small, data: dict[str, str]) -> None:
    inputs = {"labelled": data["labelled"], "validation": data["validation"], "initial": small.teacher(data)}
    other = still().model_copy(update={"model": FIT.model.model_copy(update={"name": "test_convnext"})})
    with pytest.raises(ConfigurationError, match="warm_start: the teacher's weights do not fit"):
        small.run("fit", other, inputs)
    with pytest.raises(LabelError, match="the checkpoint has 3 classes, the data 4"):
        small.run("fit", still().model_copy(update={"num_classes": 4}), inputs)
