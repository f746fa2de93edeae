"""A model is taken as it is: published weights become a checkpoint, without a fit."""

from noisystudent_core.config.settings import AdoptConfig
from noisystudent_core.events import Events
from noisystudent_core.models import checkpoints
from noisystudent_core.models.architectures import check_head, create_model, with_own_geometry
from noisystudent_core.storage.manifest import Inputs, publish_part
from noisystudent_core.storage.stage import Place, Written, stage


@stage
def adopt(config: AdoptConfig, inputs: Inputs, place: Place, events: Events) -> Written:
    """Publish the weights that `config.model` names, or those of the input "weights", its safetensors file.

    Raises `ConfigurationError` where their head has other classes than the data.
    """
    model = with_own_geometry(config.model) if config.own_geometry else config.model
    check_head(model, config.num_classes)
    net = create_model(model, config.num_classes, seed=0, batch_norm_momentum=0.1)  # neither is in the weights
    files = checkpoints.encode(net, model, config.class_names)
    parts = tuple(publish_part(place.folder, name, data, 0) for name, data in files.items())
    events("message", text=f"{config.model.name} is taken as it is, without a fit")
    num_parameters = sum(parameter.numel() for parameter in net.parameters())
    return Written(parts, facts={"num_parameters": num_parameters, "input": [model.resolution_px, model.crop_fraction]})
