"""Everything about a configuration that only the models can tell, found out before the first image is read."""

from itertools import pairwise

from noisystudent_core.config.run import NoisyStudentConfig
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.events import Events, silent
from noisystudent_core.models.architectures import num_parameters
from noisystudent_core.noise.randaugment import RandAugment
from noisystudent_core.storage.manifest import Inputs


def check(config: NoisyStudentConfig, inputs: Inputs, root: str, events: Events = silent) -> list[int]:
    """Check names, sizes and noise; returns the parameters of the teacher and of each student.

    Raises `ConfigurationError` for an unknown model and for a student smaller than its teacher, unless
    `allow_smaller_student` (the paper's Algorithm 1, step 3: "equal-or-larger").
    """
    learners = [config.teacher, *config.iterations]
    sizes = [num_parameters(learner.model, config.data.num_classes) for learner in learners]
    for learner in learners:
        RandAugment(learner.noise.dialect, learner.noise.num_ops, learner.noise.magnitude)
    if config.selector != "teacher":
        num_parameters(config.selector.model, config.data.num_classes)
    for number, (teacher, student) in enumerate(pairwise(sizes), 1):
        if student < teacher and not config.allow_smaller_student:
            raise ConfigurationError(
                f"student {number} ({learners[number].model.name}) has {student:,} parameters, its teacher "
                f"{teacher:,}: must not be smaller; choose a larger net or set allow_smaller_student"
            )
    return sizes
