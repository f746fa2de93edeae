"""A model is fitted: teacher, selector, student or baseline, by what it is given."""

import pyarrow as pa
from torch import nn

from noisystudent_core.config.settings import FitConfig
from noisystudent_core.data.parts import labelled_batches
from noisystudent_core.data.resident import PseudoLabelledImages, load_labelled, load_pseudo_labelled
from noisystudent_core.data.schemas import HISTORY, to_bytes
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.evaluation import accuracy
from noisystudent_core.events import Events
from noisystudent_core.models import checkpoints
from noisystudent_core.models.architectures import Normalised, create_model, device
from noisystudent_core.noise.input_noise import source_geometry
from noisystudent_core.noise.model_noise import noise_model
from noisystudent_core.stages.figures import show_noise
from noisystudent_core.storage.manifest import Inputs, Part, publish_part
from noisystudent_core.storage.stage import Place, Written, stage
from noisystudent_core.training import loop
from noisystudent_core.training.batches import Batches

VALIDATION_BATCH = 256


@stage
def fit(config: FitConfig, inputs: Inputs, place: Place, events: Events) -> Written:
    """Fit a model: inputs {"labelled", "validation"}, and {"images", "selection", "predictions"} for a student.

    The artifact is a checkpoint of the averaged weights in timm's layout, and the history of the fit.
    """
    model = config.model
    net = create_model(model, config.num_classes, config.seed, config.train.batch_norm_momentum)
    noise_model(net, model.dropout, model.stochastic_depth)
    size, crop_fraction = source_geometry(config.noise, model.resolution_px, model.crop_fraction)
    labelled = load_labelled(inputs["labelled"], size, device(), crop_fraction)
    pseudo = _pseudo_labelled(config, inputs)
    validation = list(
        labelled_batches(inputs["validation"], model.resolution_px, model.crop_fraction, VALIDATION_BATCH)
    )

    def validate(averaged: nn.Module) -> dict[str, float]:
        return {f"validation/{metric}": value for metric, value in accuracy.run(averaged, validation)}

    state = loop.start(Normalised(net).to(device()), config)
    batches = Batches.resident(config, labelled, pseudo)
    show_noise(config, batches, events)
    history = loop.fit(state, config, batches, len(labelled.labels), validate, events)
    facts = {
        "num_steps": state.step,
        "num_parameters": sum(parameter.numel() for parameter in net.parameters()),
        "num_labelled": len(labelled.labels),
        "final": {name: history.last(name) for name in history.names()},
    }
    return Written((*_checkpoint(place, state.ema.model.net, config), _history(place, history)), facts=facts)


def _pseudo_labelled(config: FitConfig, inputs: Inputs) -> PseudoLabelledImages | None:
    given = {"images", "selection", "predictions"} & set(inputs)
    if config.pseudo_labels is None and not given:
        return None
    if config.pseudo_labels is None or len(given) < 3:
        raise ConfigurationError(
            f"fit is given {sorted(given)} and pseudo_labels={config.pseudo_labels}: a student needs images, "
            "selection, predictions and pseudo_labels, a teacher none of them"
        )
    noise, model = config.pseudo_labels.noise or config.noise, config.model
    size, crop_fraction = source_geometry(noise, model.resolution_px, model.crop_fraction)
    return load_pseudo_labelled(
        inputs["images"], inputs["selection"], inputs["predictions"], size, device(), crop_fraction
    )


def _checkpoint(place: Place, net: nn.Module, config: FitConfig) -> list[Part]:
    files = checkpoints.encode(net, config.model, config.class_names)
    return [publish_part(place.folder, name, data, 0) for name, data in files.items()]


def _history(place: Place, history: loop.History) -> Part:
    columns = [list(column) for column in zip(*history.rows, strict=True)]
    data = to_bytes(pa.table(columns, schema=HISTORY), HISTORY)
    return publish_part(place.folder, "history.parquet", data, len(history.rows))
