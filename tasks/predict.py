"""Labelling: a plan of the parts still missing, groups of them mapped over the slots, and one manifest at the end."""

from typing import Any

from prefect import get_run_logger, task
from prefect.client.schemas.objects import State
from prefect.utilities.annotations import unmapped

from noisystudent_core.config import PredictConfig
from noisystudent_core.storage.manifest import artifact_url, finished, input_digests
from tasks.progress import Progress
from tasks.running import RETRIES, Ref, Run, run_stage

MAX_GROUPS = 500  # task runs a stage: the server drops events past a few thousand
GROUPS_PER_SLOT = 4


@task(name="plan labelling", task_run_name="plan labelling by {role}", **RETRIES)
def plan(role: str, config: PredictConfig, inputs: dict[str, Ref], run: Run) -> list[list[int]]:
    """Groups of indices of the image parts that this model has not labelled yet."""
    if finished(artifact_url(config, input_digests(inputs), run.root)) is not None:
        return []
    groups = run.engine.run(
        "plan_predictions",
        config,
        inputs,
        run.root,
        num_groups=min(MAX_GROUPS, GROUPS_PER_SLOT * run.engine.num_slots),
    )
    get_run_logger().info("%d parts to label, in %d groups", sum(map(len, groups)), len(groups))
    return groups


@task(name="label group", task_run_name="label by {role}: a group", **RETRIES)
def label_group(role: str, parts: Any, config: PredictConfig, inputs: dict[str, Ref], run: Run) -> int:
    """Label the parts of one group that are still missing; returns the number of images labelled."""
    with Progress(f"label by {role}") as progress:
        return run.engine.run("predict_group", config, inputs, run.root, progress.listen, parts=parts)


@task(name="label", task_run_name="label by {role}", **RETRIES)
def gather(
    role: str, config: PredictConfig, inputs: dict[str, Ref], groups: Any, run: Run, iteration: int | None
) -> State[str]:
    """Publish the manifest over all parts."""
    return run_stage("predict", config, inputs, run, f"label by {role}", iteration)


def label(role: str, config: PredictConfig, inputs: dict[str, Ref], run: Run, iteration: int | None = None) -> Ref:
    """Submit a whole labelling pass: inputs {"checkpoint", "images"} and {"selection"}, URLs or futures of them.

    Waits for the plan, so that the UI shows the groups; the result is the predictions' URL.
    """
    planned = plan.submit(role, config, inputs, run)
    groups = label_group.map(
        unmapped(role), planned, config=unmapped(config), inputs=unmapped(inputs), run=unmapped(run)
    )
    return gather.submit(role, config, inputs, groups, run, iteration)
