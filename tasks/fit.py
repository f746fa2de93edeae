"""Fits: teacher, selector, students and baselines."""

from prefect import task
from prefect.client.schemas.objects import State

from noisystudent_core.config import FitConfig
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
    """Fit a model on labelled images, and on `pseudo_labelled` ones: {"images", "selection", "predictions"}."""
    inputs = {"labelled": labelled, "validation": validation, **(pseudo_labelled or {})}
    if config.model.weights is not None:
        inputs["weights"] = config.model.weights
    return run_stage("fit", config, inputs, run, f"fit {role}", iteration)
