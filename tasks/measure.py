"""Measurements of one model, whoever made it, and their table."""

import json
from typing import Any

from prefect import task
from prefect.client.schemas.objects import State

from noisystudent_core.config.evaluation import Adversarial
from noisystudent_core.config.model_evaluation import ModelEvaluation
from noisystudent_core.errors import ConfigurationError, SourceError
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import Artifact
from noisystudent_core.storage.sources import file_digest, source_digest
from tasks.evaluate import as_key, corrupt, evaluate, show_page
from tasks.fit import adopt
from tasks.progress import show_table
from tasks.running import RETRIES, Ref, Run, run_stage

ROLE, IMAGES = "model", "images"
Row = dict[str, Any]


def check_inputs(config: ModelEvaluation) -> None:
    """Raise before anything starts: `SourceError` for what is not there, `ConfigurationError` for other classes."""
    if config.checkpoint is not None:
        found = Artifact.open(config.checkpoint, "checkpoints").manifest.config["num_classes"]
        if config.num_classes not in (None, found):
            raise ConfigurationError(
                f"num_classes={config.num_classes}: {config.checkpoint} has {found} classes; leave num_classes out"
            )
    if config.model is not None and config.model.weights is not None:
        file_digest(config.model.weights)
    if config.images is not None:
        source_digest(config.images)
    for kind, url in config.folders.items():
        folder = Folder.at(url)
        if not folder.fs.isdir(folder.path):
            raise SourceError(
                f"folders.{kind}={url}: no such folder; give the benchmark's, unpacked as it was released"
            )


@task(name="prepare", task_run_name="prepare images", **RETRIES)
def prepare_images(checkpoint: str, config: ModelEvaluation, run: Run) -> State[str]:
    """Take in the images that a model is measured on, with labels of its classes."""
    net = json.loads(Folder.at(checkpoint).read("config.json"))
    settings = config.prepare(net["num_classes"], net.get("label_names"))
    return run_stage("prepare", settings, {"source": str(config.images)}, run, f"prepare {IMAGES}")


def measure_model(config: ModelEvaluation, run: Run) -> dict[str, Ref]:
    """Submit everything that is measured of a model; the inputs of its report, `evaluations` artifacts by theirs."""
    settings = config.adopt()
    checkpoint = str(config.checkpoint if settings is None else adopt.submit(ROLE, settings, run).result())
    found: dict[str, Ref] = {
        f"evaluation {kind}": evaluate.submit(
            ROLE, kind, config.evaluate(kind, released=kind), _inputs(checkpoint, folder=url), run, 0
        )
        for kind, url in config.folders.items()
    }
    return _inputs(checkpoint, **found, **(_on_images(config, checkpoint, run) if config.images is not None else {}))


def _on_images(config: ModelEvaluation, checkpoint: str, run: Run) -> dict[str, Ref]:
    manifest = Artifact.open(checkpoint, "checkpoints").manifest
    images = prepare_images.submit(checkpoint, config, run)
    accuracy = evaluate.submit(ROLE, IMAGES, config.evaluate(IMAGES), _inputs(checkpoint, images=images), run, 0)
    found = {IMAGES: images, f"evaluation {IMAGES}": accuracy}
    for suite in config.robustness.suites:
        if isinstance(suite, Adversarial):
            inputs = _inputs(checkpoint, images=images)
        else:
            worse = config.corrupt(suite, *manifest.facts.get("input", _geometry(manifest.config["model"])))
            inputs = _inputs(checkpoint, corrupted=corrupt.submit(suite.kind, IMAGES, worse, images, run))
        settings = config.evaluate(IMAGES, suite)
        what = f"{IMAGES}, {suite.kind}"
        found[f"evaluation {IMAGES} {suite.kind}"] = evaluate.submit(ROLE, what, settings, inputs, run, 0)
    return found


def _inputs(checkpoint: str, **others: Ref) -> dict[str, Ref]:
    return {"checkpoint": checkpoint, **others}


def _geometry(model: dict[str, Any]) -> tuple[int, float]:
    return model["resolution_px"], model["crop_fraction"]


@task(name="report", task_run_name="report", **RETRIES)
def tabulate(inputs: dict[str, str], config: ModelEvaluation, run: Run) -> list[Row]:
    """A row per benchmark and metric, and the page, in Prefect and in MLflow; the rows are returned, with its address.

    `inputs` as `measure_model` gives them.
    """
    rows = [row for name, url in inputs.items() if name.startswith("evaluation ") for row in _rows(url)]
    show_table("measurements", rows, "What was measured of the model, in percent")
    run.tracker.log_table(run.mlflow_run_id, "measurements", rows)
    numbers = {f"{row['benchmark']}/{as_key(row['metric'])}": row["value"] for row in rows if _is_short(row)}
    run.tracker.log_parent_metrics(run.mlflow_run_id, numbers, step=0)
    page = str(run_stage("report_model", config.report(), inputs, run, "report").data)
    show_page(page, run)
    return [{**row, "report": page} for row in rows]


def _is_short(row: Row) -> bool:
    """Whether it is of all severities together."""
    return row["metric"].count("/") < 2


def _rows(url: str) -> list[Row]:
    manifest = Artifact.open(url).manifest
    suite = (manifest.config["suite"] or {}).get("kind", "accuracy")
    common = {"benchmark": manifest.config["benchmark"], "suite": manifest.config["released"] or suite}
    return [
        {**common, "metric": metric, "value": value, "num_images": manifest.facts["num_images"]}
        for metric, value in manifest.facts["metrics"].items()
    ]
