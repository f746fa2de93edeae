"""Sources become image parts; evaluation images among the unlabelled ones are found."""

from prefect import task
from prefect.client.schemas.objects import State

from noisystudent_core.config import SPLITS, NoisyStudentConfig
from noisystudent_core.storage.manifest import Artifact
from tasks.running import RETRIES, Ref, Run, run_stage
from tasks.tracking import TrackedData


@task(name="prepare", task_run_name="prepare {split}", **RETRIES)
def prepare(split: str, source: str, config: NoisyStudentConfig, run: Run) -> State[str]:
    """Take in one of the sources, and log it as a data set of the run."""
    state = run_stage("prepare", config.prepare(split), {"source": source}, run, f"prepare {split}")
    log_data(split, str(state.data), run)
    return state


@task(name="exclusions", task_run_name="exclusions", **RETRIES)
def exclusions(inputs: dict[str, Ref], config: NoisyStudentConfig, run: Run) -> State[str]:
    """Find evaluation images in the unlabelled set: inputs {"unlabelled"} and the evaluation sets by name."""
    return run_stage("exclusions", config.exclusions(), inputs, run, "exclusions")


def prepare_all(config: NoisyStudentConfig, run: Run) -> dict[str, Ref]:
    """Submit the intake of every source that the run has."""
    sources = {split: config.source(split) for split in SPLITS}
    return {split: prepare.submit(split, source, config, run) for split, source in sources.items() if source}


def log_data(split: str, url: str, run: Run) -> None:
    """Log a prepared set, by content digest, as a data set of the tracked run."""
    manifest = Artifact.open(url).manifest
    data = TrackedData(role=split, name=split, digest=manifest.content_digest, source=url, num_rows=manifest.num_rows)
    run.tracker.log_inputs(run.mlflow_run_id, [data])
