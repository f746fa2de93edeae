"""Filtering and balancing, with the table of thresholds shown before the first student is fitted."""

from prefect import task
from prefect.client.schemas.objects import State

from noisystudent_core.config import MaterialiseConfig, NoisyStudentConfig
from noisystudent_core.storage.manifest import Artifact, Manifest
from tasks.progress import show_table
from tasks.running import RETRIES, Ref, Run, run_stage


@task(name="select", task_run_name="select", **RETRIES)
def select(inputs: dict[str, Ref], config: NoisyStudentConfig, run: Run) -> State[str]:
    """Select among `predictions` of `images`; `validation_predictions` of `validation_images` give the thresholds."""
    state = run_stage("select", config.select(), inputs, run, "select", metrics=_metrics)
    facts = Artifact.open(str(state.data)).manifest.facts
    threshold = config.selection.threshold
    show_table("thresholds", facts["thresholds"], f"What each threshold keeps; this run's is {threshold}")
    show_table("classes", facts["classes"], "Selected images and copies per class")
    run.tracker.log_table(run.mlflow_run_id, "thresholds", facts["thresholds"])
    run.tracker.log_table(run.mlflow_run_id, "classes", facts["classes"])
    return state


@task(name="materialise", task_run_name="materialise", **RETRIES)
def materialise(config: MaterialiseConfig, inputs: dict[str, Ref], run: Run) -> State[str]:
    """Write the images of {"selection"} among {"images"} with their bytes, shuffled across parts."""
    return run_stage("materialise", config, inputs, run, "materialise")


def selected_images(selection: dict[str, Ref], config: NoisyStudentConfig, run: Run) -> dict[str, Ref]:
    """What teachers label and students learn from: {"images", "selection"}, or where set {"images"} of their own."""
    selected = {name: selection[name] for name in ("images", "selection")}
    if (settings := config.materialise()) is None:
        return selected
    return {"images": materialise.submit(settings, selected, run)}


def _metrics(manifest: Manifest) -> dict[str, float]:
    shown = ("num_unlabelled", "num_selected", "num_copies")
    counts: dict[str, float] = {f"selection/{name}": manifest.facts[name] for name in shown}
    return counts | {f"selection/dropped_{reason}": count for reason, count in manifest.drops.items()}
