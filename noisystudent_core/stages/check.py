"""Everything about a configuration that only the models can tell, found out before the first image is read."""

from collections.abc import Iterator
from itertools import pairwise

from noisystudent_core.config.run import LearnerConfig, NoisyStudentConfig
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.events import Events, silent
from noisystudent_core.models.architectures import num_parameters
from noisystudent_core.noise.input_noise import InputNoiser
from noisystudent_core.storage.manifest import Inputs


def check(config: NoisyStudentConfig, inputs: Inputs, root: str, events: Events = silent) -> list[int]:
    """Check names, sizes and noise; returns the parameters of the teacher and of each student.

    A setting that has no effect is a `message`. Raises `ConfigurationError` for an unknown model, for noise outside its
    dialect, and for a student smaller than its teacher, unless `allow_smaller_student` (the paper's Algorithm 1, step
    3: "equal-or-larger").
    """
    learners = [config.teacher, *config.iterations]
    sizes = [num_parameters(learner.model, config.data.num_classes) for learner in learners]
    if config.selector != "teacher":
        num_parameters(config.selector.model, config.data.num_classes)
    _check_input_noise(config)
    for text in _ignored(config):
        events("message", text=text)
    for number, (teacher, student) in enumerate(pairwise(sizes), 1):
        if student < teacher and not config.allow_smaller_student:
            raise ConfigurationError(
                f"student {number} ({learners[number].model.name}) has {student:,} parameters, its teacher "
                f"{teacher:,}: must not be smaller; choose a larger net or set allow_smaller_student"
            )
    return sizes


def _check_input_noise(config: NoisyStudentConfig) -> None:
    """Raise ConfigurationError for input noise that its dialect does not know."""
    learners = [config.teacher, *config.iterations, *([] if config.selector == "teacher" else [config.selector])]
    for learner in learners:
        InputNoiser(learner.noise, learner.model.resolution_px)
    for student in config.iterations:
        InputNoiser(student.pseudo_labels.noise or student.noise, student.model.resolution_px)


def _ignored(config: NoisyStudentConfig) -> Iterator[str]:
    """Settings that this configuration makes nothing of."""
    for number in config.student_iterations if config.noised_teacher else ():
        if not _has_noise(config.teacher_of(number)):
            yield (
                f"noised_teacher=True: the teacher of student {number} is fitted without any noise, so it labels "
                "without any; give it noise, or leave noised_teacher off"
            )


def _has_noise(learner: LearnerConfig) -> bool:
    noise, model = learner.noise, learner.model
    cropped = noise.crop == "resized" or (noise.crop == "translate" and noise.crop_padding_px > 0)
    return bool(cropped or noise.flip or noise.num_ops or model.dropout or model.stochastic_depth)
