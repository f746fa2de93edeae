"""A fitted model is brought to a larger resolution: a short fit of its deep layers on unaugmented labelled images."""

from noisystudent_core.config.settings import FixResolutionConfig
from noisystudent_core.events import Events
from noisystudent_core.models import checkpoints
from noisystudent_core.models.architectures import Normalised, device
from noisystudent_core.noise.model_noise import noise_model
from noisystudent_core.stages.fit import publish_checkpoint, validation_of, with_class_names
from noisystudent_core.stages.spread import spread
from noisystudent_core.storage.manifest import Inputs
from noisystudent_core.storage.stage import Place, Written
from noisystudent_core.training import loop
from noisystudent_core.training.batches import Batches
from noisystudent_core.training.distributed import Group
from noisystudent_core.training.inputs import open_streams
from noisystudent_core.training.resolution import freeze_shallow


@spread
def fix_resolution(config: FixResolutionConfig, inputs: Inputs, place: Place, events: Events, group: Group) -> Written:
    """Fine-tune at `config.model.resolution_px`: inputs {"checkpoint", "labelled", "validation"}.

    Images are seen as in evaluation: resized, the middle cut out. The checkpoint it begins with stays as it is.
    """
    config, model = with_class_names(config, inputs), config.model
    net, _ = checkpoints.load(inputs["checkpoint"], config.num_classes, model.resolution_px)
    noise_model(net, model.dropout, model.stochastic_depth)
    with open_streams(config, inputs, group.share, device(), events) as streams:
        state = loop.start(Normalised(net).to(device()), config, group)
        frozen = freeze_shallow(net, config.frozen_share)
        batches = Batches(config, streams.labelled, None, group.share)
        validate = validation_of(config, inputs, group)
        history = loop.fit(state, config, batches, streams.num_labelled, validate, events, place.scratch, group)
    num_frozen = sum(net.get_parameter(name).numel() for name in frozen)
    facts = {"num_steps": state.step, "num_labelled": streams.num_labelled, "num_frozen_parameters": num_frozen}
    return publish_checkpoint(place, state, config, history, facts, group)
