"""A model is fitted: teacher, selector, student or baseline, by what it is given."""

from typing import Any, TypeVar

import pyarrow as pa
from torch import nn

from noisystudent_core.config.settings import FitConfig
from noisystudent_core.data.labels import check_same_names
from noisystudent_core.data.parts import labelled_batches
from noisystudent_core.data.schemas import HISTORY, to_bytes
from noisystudent_core.evaluation import accuracy
from noisystudent_core.events import Events
from noisystudent_core.models import checkpoints
from noisystudent_core.models.architectures import Normalised, create_model, device, start_from
from noisystudent_core.noise.model_noise import noise_model
from noisystudent_core.stages.figures import show_noise
from noisystudent_core.stages.spread import spread
from noisystudent_core.storage.manifest import Artifact, Inputs, Part, publish_part
from noisystudent_core.storage.stage import Place, Written
from noisystudent_core.training import loop
from noisystudent_core.training.batches import Batches
from noisystudent_core.training.distributed import Group
from noisystudent_core.training.history import History
from noisystudent_core.training.inputs import open_streams
from noisystudent_core.training.step import TrainState

VALIDATION_BATCH = 256

Config = TypeVar("Config", bound=FitConfig)


@spread
def fit(config: FitConfig, inputs: Inputs, place: Place, events: Events, group: Group) -> Written:
    """Fit a model: inputs {"labelled", "validation"}, and {"images", "selection", "predictions"} for a student.

    With {"initial"}, a checkpoint of the same net, it begins with those weights: a warm start, or fine-tuning. The
    artifact is a checkpoint of the averaged weights in timm's layout, and the history of the fit.
    """
    config, model = with_class_names(config, inputs), config.model
    net = create_model(model, config.num_classes, config.seed, config.train.batch_norm_momentum)
    if "initial" in inputs:
        start_from(net, checkpoints.load(inputs["initial"], config.num_classes)[0])
    noise_model(net, model.dropout, model.stochastic_depth)
    with open_streams(config, inputs, group.share, device(), events) as streams:
        validate = validation_of(config, inputs, group)
        state = loop.start(Normalised(net).to(device()), config, group)
        batches = Batches(config, streams.labelled, streams.unlabelled, group.share)
        show_noise(config, batches, events)
        history = loop.fit(state, config, batches, streams.num_labelled, validate, events, place.scratch, group)
    facts = {"num_steps": state.step, "num_labelled": streams.num_labelled}
    return publish_checkpoint(place, state, config, history, facts, group)


def with_class_names(config: Config, inputs: Inputs) -> Config:
    """The settings with the names that the labelled images' classes have at their source, where none are given.

    Raises `LabelError` where the validation images have others.
    """
    labelled, validation = (Artifact.open(inputs[name]).manifest.facts for name in ("labelled", "validation"))
    names = labelled.get("class_names")
    check_same_names("validation", validation.get("class_names"), "labelled", names)
    names = config.class_names or names
    return config.model_copy(update={"class_names": tuple(names) if names else None})


def validation_of(config: FitConfig, inputs: Inputs, group: Group) -> loop.Validate:
    """What measures a net on the input "validation", read and decoded once, at the model's resolution.

    The first process of a group does it for all.
    """
    if not group.is_first:
        return lambda averaged: {}
    model = config.model
    batches = list(labelled_batches(inputs["validation"], model.resolution_px, model.crop_fraction, VALIDATION_BATCH))

    def validate(averaged: nn.Module) -> dict[str, float]:
        return {f"validation/{metric}": value for metric, value in accuracy.run(averaged, batches)}

    return validate


def publish_checkpoint(
    place: Place, state: TrainState, config: FitConfig, history: History, facts: dict[str, Any], group: Group
) -> Written:
    """Publish the averaged weights in timm's layout, and the history of the fit; the first process of a group does."""
    if not group.is_first:
        return Written(())
    net = state.ema.model.net
    files = checkpoints.encode(net, config.model, config.class_names)
    parts = [publish_part(place.folder, name, data, 0) for name, data in files.items()]
    facts |= {
        "num_parameters": sum(parameter.numel() for parameter in net.parameters()),
        "final": {name: history.last(name) for name in history.names()},
    }
    return Written((*parts, _history(place, history)), facts=facts)


def _history(place: Place, history: History) -> Part:
    columns = [list(column) for column in zip(*history.rows, strict=True)]
    data = to_bytes(pa.table(columns, schema=HISTORY), HISTORY)
    return publish_part(place.folder, "history.parquet", data, len(history.rows))
