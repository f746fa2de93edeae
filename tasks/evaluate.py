"""Measurements of a checkpoint, and the table over iterations."""

from typing import Any

from prefect import task
from prefect.client.schemas.objects import State

from noisystudent_core.config import NoisyStudentConfig
from noisystudent_core.evaluation import report
from noisystudent_core.storage.manifest import Manifest
from tasks.progress import show_link, show_markdown, show_table
from tasks.running import RETRIES, Ref, Run, run_stage


@task(name="evaluate", task_run_name="evaluate {role} on {benchmark}", **RETRIES)
def evaluate(
    role: str,
    benchmark: str,
    checkpoint: Ref,
    images: Ref,
    config: NoisyStudentConfig,
    run: Run,
    iteration: int,
) -> State[str]:
    """Measure a checkpoint on labelled images."""
    inputs = {"checkpoint": checkpoint, "images": images}
    name = f"evaluate {role} on {benchmark}"
    return run_stage("evaluate", config.evaluate(benchmark), inputs, run, name, iteration, _metrics)


def _metrics(manifest: Manifest) -> dict[str, float]:
    """Numbers under the keys that every iteration shares: eval/ on the test images, validation/ on those."""
    prefix = "eval" if manifest.config["benchmark"] == "test" else manifest.config["benchmark"]
    return {f"{prefix}/{metric}": value for metric, value in manifest.facts["metrics"].items()}


def measure(
    iteration: int,
    checkpoint: Ref,
    baseline: Ref | None,
    data: dict[str, Ref],
    config: NoisyStudentConfig,
    run: Run,
) -> dict[str, Any]:
    """Submit an iteration's measurements; futures of the artifact URLs that `summarise` reads."""
    role = f"student {iteration}" if iteration else "teacher"
    reported = "test" if config.sources.test else "validation"

    def on(benchmark: str, role: str, model: Ref) -> Ref:
        return evaluate.submit(role, benchmark, model, data[benchmark], config, run, iteration)

    return {
        "checkpoint": checkpoint,
        "validation": on("validation", role, checkpoint),
        "test": on("test", role, checkpoint) if config.sources.test else None,
        "supervised": on(reported, f"baseline {iteration}", baseline) if baseline else None,
    }


@task(name="report", task_run_name="report", **RETRIES)
def summarise(models: list[dict[str, Any]], config: NoisyStudentConfig, run: Run) -> list[dict[str, Any]]:
    """The iterations table, in Prefect, in MLflow, and returned: a row per iteration."""
    rows = report.iterations(config, models)
    text = report.markdown(config, rows)
    show_table("iterations", rows, f"{config.name}: each iteration against its teacher and its supervised baseline")
    show_markdown("report", text)
    run.tracker.log_table(run.mlflow_run_id, "iterations", rows)
    run.tracker.log_text(run.mlflow_run_id, "report.md", text)
    for row in rows:
        run.tracker.log_parent_metrics(run.mlflow_run_id, report.metrics(row), step=row["iteration"])
    show_link("mlflow", run.tracker.run_url(run.mlflow_run_id), "This run in MLflow")
    return rows
