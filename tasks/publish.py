"""The last student goes to MLflow's registry; the one task whose process imports torch."""

from typing import Any

from prefect import get_run_logger, task

from noisystudent_core.config import NoisyStudentConfig
from noisystudent_core.evaluation import report
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import Artifact
from tasks.model_card import data_sets, model_card, validation_metrics
from tasks.model_registry import CARD, publish_student
from tasks.progress import show_link
from tasks.running import RETRIES, Ref, Run


@task(name="publish", task_run_name="publish", **RETRIES)
def publish(student: Ref, rows: Any, config: NoisyStudentConfig, run: Run) -> str | None:
    """Register the student as `noisy-student-<recipe>`; returns the model's URI, None for an untracked run."""
    if run.mlflow_run_id is None:
        get_run_logger().warning("MLflow did not answer: the student stays at %s and is not registered", student)
        return None
    manifest = Artifact.open(student).manifest
    digest = manifest.content_digest
    card = model_card(config, rows, manifest, data_sets(config, run.root))
    measured = validation_metrics(config, run.root, student)
    stage_run = run.tracker.stage_run(run.mlflow_run_id, key=f"publish {digest}", name="publish")
    with stage_run, Folder.at(student).local_copy() as folder:
        if stage_run.run_id is None:
            return None
        run.tracker.log_text(stage_run.run_id, CARD, card)
        published = publish_student(
            run.tracker,
            stage_run.run_id,
            checkpoint_dir=folder,
            checkpoint_digest=digest,
            name=f"noisy-student-{config.name}",
            card=card,
            metrics=report.metrics(rows[-1]) | {f"validation/{name}": value for name, value in measured.items()},
            champion_metric=f"validation/{config.publication.champion_metric}",
            iteration=rows[-1]["iteration"],
        )
    show_link("model", published.url, f"{published.name} version {published.version} in MLflow")
    get_run_logger().info("registered %s, aliases: %s", published.uri, ", ".join(published.aliases) or "none")
    return published.uri
