"""Everything about a configuration that only the models can tell, found out before the first image is read."""

from collections.abc import Iterator
from itertools import pairwise

from noisystudent_core.config.run import LearnerConfig, NoisyStudentConfig, SelectionConfig
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.events import Events, silent
from noisystudent_core.models.architectures import check_head, device, num_parameters
from noisystudent_core.noise.input_noise import InputNoiser
from noisystudent_core.storage.manifest import Artifact, Inputs
from noisystudent_core.training.distributed import check_batch_norm


def check(config: NoisyStudentConfig, inputs: Inputs, root: str, events: Events = silent) -> list[int]:
    """Check names, sizes and noise; returns the parameters of the teacher and of each student.

    A setting that has no effect is a `message`. Raises `ConfigurationError` for an unknown model, for one that is taken
    as it is but has other classes, for noise outside its dialect, for a warm start from another net, and for a student
    smaller than its teacher, unless `allow_smaller_student` (the paper's Algorithm 1, step 3: "equal-or-larger");
    `SourceError` where a given checkpoint is not there.
    """
    learners = [config.teacher, *config.iterations]
    sizes = [_num_parameters(learner, config.data.num_classes) for learner in learners]
    if config.selector != "teacher":
        _num_parameters(config.selector, config.data.num_classes)
    for iteration in range(len(learners)):
        if (fix := config.fix_resolution(iteration)) is not None:
            num_parameters(fix.model, config.data.num_classes)
    _check_input_noise(config)
    _check_warm_starts(config)
    for fit in config.fits():
        check_batch_norm(fit.train, device())
    for text in _ignored(config):
        events("message", text=text)
    for number, (teacher, student) in enumerate(pairwise(sizes), 1):
        if student < teacher and not config.allow_smaller_student:
            raise ConfigurationError(
                f"student {number} ({learners[number].model.name}) has {student:,} parameters, its teacher "
                f"{teacher:,}: must not be smaller; choose a larger net or set allow_smaller_student"
            )
    return sizes


def _num_parameters(learner: LearnerConfig, num_classes: int) -> int:
    """Parameters of the net that is fitted, or taken as it is."""
    if learner.checkpoint is None:
        return num_parameters(learner.model, num_classes)
    if learner.checkpoint == "pretrained":
        check_head(learner.model, num_classes)
        return num_parameters(learner.model, num_classes)
    manifest = Artifact.open(learner.checkpoint, "checkpoints").manifest
    if (found := manifest.config["num_classes"]) != num_classes:
        raise ConfigurationError(
            f"checkpoint={learner.checkpoint!r} has {found} classes, the data have data.num_classes={num_classes}: "
            "they must be the same; give a checkpoint fitted on these classes"
        )
    return manifest.facts["num_parameters"]


def _check_warm_starts(config: NoisyStudentConfig) -> None:
    """Raise ConfigurationError for a student that is to begin with the weights of another net."""
    for number, student in enumerate(config.iterations, 1):
        own, teacher = _architecture(student), _architecture(config.teacher_of(number))
        if student.warm_start and own != teacher:
            raise ConfigurationError(
                f"iterations.{number - 1}.warm_start=True: student {number} is {own}, its teacher {teacher}; only the "
                "same net can begin with its weights: leave warm_start off, or choose one net"
            )


def _architecture(learner: LearnerConfig) -> str:
    """The net's timm name without the tag of its weights."""
    model = learner.model.model_dump()
    if learner.checkpoint not in (None, "pretrained"):
        model = Artifact.open(learner.checkpoint).manifest.config["model"]
    return model["name"].partition(".")[0]


def _check_input_noise(config: NoisyStudentConfig) -> None:
    """Raise ConfigurationError for input noise that its dialect does not know."""
    learners = [config.teacher, *config.iterations, *([] if config.selector == "teacher" else [config.selector])]
    for learner in learners:
        InputNoiser(learner.noise, learner.model.resolution_px)
    for student in config.iterations:
        InputNoiser(student.pseudo_labels.noise or student.noise, student.model.resolution_px)


def _ignored(config: NoisyStudentConfig) -> Iterator[str]:
    """Settings that this configuration makes nothing of."""
    selection, default = config.selection, SelectionConfig()
    if selection.balance == "none" and (
        selection.max_copies is not None or selection.num_images_per_class != default.num_images_per_class
    ):
        yield 'balance="none": each confident image counts once; num_images_per_class and max_copies have no effect'
    for number in config.student_iterations if config.noised_teacher else ():
        if not _has_noise(config.teacher_of(number)):
            yield (
                f"noised_teacher=True: the teacher of student {number} is fitted without any noise, so it labels "
                "without any; give it noise, or leave noised_teacher off"
            )


def _has_noise(learner: LearnerConfig) -> bool:
    noise, model = learner.noise, learner.model
    cropped = noise.crop == "resized" or (noise.crop == "translate" and noise.crop_padding_px > 0)
    moved = cropped or noise.flip or noise.num_ops or noise.cutout_px
    return bool(moved or model.dropout or model.stochastic_depth)
