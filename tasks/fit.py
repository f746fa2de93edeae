"""Fits: teacher, selector, students and baselines; and models that are taken without one."""

from typing import NamedTuple

from prefect import task
from prefect.client.schemas.objects import State

from noisystudent_core.config import AdoptConfig, FitConfig, FixResolutionConfig, LearnerConfig, NoisyStudentConfig
from tasks.running import RETRIES, Ref, Run, run_stage


@task(name="fit", task_run_name="fit {role}", **RETRIES)
def fit(
    role: str,
    config: FitConfig,
    labelled: Ref,
    validation: Ref,
    run: Run,
    pseudo_labelled: dict[str, Ref] | None = None,
    iteration: int | None = None,
) -> State[str]:
    """Fit a model on labelled images, and on `pseudo_labelled` ones: {"images", "selection", "predictions"}.

    These may come with {"initial"}, the checkpoint that a student starts from.
    """
    inputs = {"labelled": labelled, "validation": validation, **(pseudo_labelled or {})}
    if config.model.weights is not None:
        inputs["weights"] = config.model.weights
    return run_stage("fit", config, inputs, run, f"fit {role}", iteration)


@task(name="adopt", task_run_name="adopt {role}", **RETRIES)
def adopt(role: str, config: AdoptConfig, run: Run) -> State[str]:
    """Take the weights that a model comes with as they are."""
    inputs = {"weights": config.model.weights} if config.model.weights is not None else {}
    return run_stage("adopt", config, inputs, run, f"adopt {role}")


@task(name="fix resolution", task_run_name="fix resolution of {role}", **RETRIES)
def fix_resolution(
    role: str, config: FixResolutionConfig, fitted: Ref, labelled: Ref, validation: Ref, run: Run, iteration: int
) -> State[str]:
    """Fine-tune a fitted model at a larger resolution."""
    inputs = {"checkpoint": fitted, "labelled": labelled, "validation": validation}
    return run_stage("fix_resolution", config, inputs, run, f"fix resolution of {role}", iteration)


class Fitted(NamedTuple):
    """A model of a run, and what it was before its resolution was fixed: the same where that is not set."""

    checkpoint: Ref
    before_resolution: Ref


def fit_teacher(data: dict[str, Ref], config: NoisyStudentConfig, run: Run) -> Fitted:
    """Submit the first teacher: a fit on the labelled images, or the model that is given in its place."""
    fitted = _first_model("teacher", config.teacher, config.fit_teacher(), data, run, iteration=0)
    return _at_larger_resolution(0, "teacher", fitted, data, config, run)


def fit_selector(teacher: Ref, data: dict[str, Ref], config: NoisyStudentConfig, run: Run) -> Ref:
    """Submit the model that chooses the unlabelled images: one of its own where the run has one, else the teacher."""
    own = config.fit_selector()
    if config.selector == "teacher" or own is None:
        return teacher
    return _first_model("selector", config.selector, own, data, run)


def fit_baselines(data: dict[str, Ref], config: NoisyStudentConfig, run: Run) -> dict[int, Ref]:
    """Submit each student's net on the labelled images alone, by iteration; equal ones once."""
    submitted: dict[FitConfig, Ref] = {}
    baselines = {}
    for i in config.baseline_iterations:
        settings = config.fit_baseline(i)
        if settings not in submitted:
            images = data["labelled"], data["validation"]
            submitted[settings] = fit.submit(f"baseline {i}", settings, *images, run, iteration=i)
        baselines[i] = submitted[settings]
    return baselines


def fit_student(
    i: int, teacher: Ref, pseudo_labelled: dict[str, Ref], data: dict[str, Ref], config: NoisyStudentConfig, run: Run
) -> Fitted:
    """Submit student `i` on labelled and pseudo-labelled images, and what follows its fit where that is set."""
    labelled, validation, role = data["labelled"], data["validation"], f"student {i}"
    warm = {"initial": teacher} if config.iterations[i - 1].warm_start else {}
    student = fit.submit(role, config.fit_student(i), labelled, validation, run, pseudo_labelled | warm, i)
    if (finetune := config.fit_finetune(i)) is not None:
        student = fit.submit(f"{role}, fine-tuned", finetune, labelled, validation, run, {"initial": student}, i)
    return _at_larger_resolution(i, role, student, data, config, run)


def _first_model(
    role: str,
    learner: LearnerConfig,
    config: FitConfig,
    data: dict[str, Ref],
    run: Run,
    iteration: int | None = None,
) -> Ref:
    match learner.checkpoint:
        case None:
            return fit.submit(role, config, data["labelled"], data["validation"], run, iteration=iteration)
        case "pretrained":
            return adopt.submit(role, config.without_fit(), run)
        case url:
            return url


def _at_larger_resolution(
    i: int, role: str, fitted: Ref, data: dict[str, Ref], config: NoisyStudentConfig, run: Run
) -> Fitted:
    """The fitted model, and where set the one that a short fit at a larger resolution makes of it."""
    if (settings := config.fix_resolution(i)) is None:
        return Fitted(fitted, fitted)
    larger = fix_resolution.submit(role, settings, fitted, data["labelled"], data["validation"], run, i)
    return Fitted(larger, fitted)
