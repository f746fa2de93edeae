"""The `noisy-student` command: runs the flow, its stages one by one, and the local servers."""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import yaml
from pydantic import ValidationError

from flows import console
from noisystudent_core.config import (
    EvaluateConfig,
    IngestConfig,
    PredictConfig,
    PrepareConfig,
    SelectConfig,
    StageSettings,
    parse_assignments,
)
from noisystudent_core.errors import ConfigurationError, DataError, NoisyStudentError
from noisystudent_core.evaluation import report
from noisystudent_core.recipes import RECIPES, configure
from noisystudent_core.storage.manifest import Artifact, Inputs, Manifest
from noisystudent_core.storage.verify import artifact_urls, problems
from tasks import servers
from tasks.engines import opened

app = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, help=__doc__)
recipes_app = typer.Typer(invoke_without_command=True, help="List the recipes, or show one.")
app.add_typer(recipes_app, name="recipes")

Kind = TypeVar("Kind", bound=StageSettings)
Url = Annotated[str, typer.Option(help="Folder or URL of an artifact.")]
Out = Annotated[str, typer.Option(help="The artifact's own folder or URL.")]


@app.command()
def run(
    recipe: Annotated[str, typer.Option(help="A recipe; `noisy-student recipes` lists them.")] = "digits",
    root: Annotated[str | None, typer.Option(help="Folder or URL of all artifacts.")] = None,
    labelled: Annotated[str | None, typer.Option(help="Labelled images: Parquet with image, label.")] = None,
    unlabelled: Annotated[str | None, typer.Option(help="Unlabelled images: Parquet with image.")] = None,
    validation: Annotated[str | None, typer.Option(help="Images that choices are made on.")] = None,
    test: Annotated[str | None, typer.Option(help="Images that the table reports.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the whole run.")] = 0,
    engine: Annotated[str, typer.Option(help="Where stages run.")] = "local",
    student: Annotated[str | None, typer.Option(help="timm name of every student's net.")] = None,
    num_iterations: Annotated[int | None, typer.Option(help="How many students.")] = None,
    unlabelled_ratio: Annotated[float | None, typer.Option(help="Unlabelled : labelled images a step.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Confidence above which pseudo labels are kept.")] = None,
    num_images_per_class: Annotated[int | None, typer.Option(help="Selected images of each class.")] = None,
    shrink: Annotated[float, typer.Option(help="Factor on the recipe's images and steps, for a trial.")] = 1.0,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="Any other setting, key=value.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the table's rows to this file.")] = None,
) -> None:
    """Run the whole flow in this process, on the Prefect server that answers or on one of its own."""
    parameters = {k: v for k, v in locals().items() if k not in ("assignments", "json_file")}
    overrides = parse_assignments(assignments or [])
    rows = console.run_flow({**parameters, "overrides": overrides or None})
    typer.echo(report.table(rows))
    if json_file is not None:
        json_file.write_text(json.dumps(rows, indent=1) + "\n")


@app.command()
def prepare(
    source: Annotated[str, typer.Argument(help="Parquet files with image and, for labelled images, label.")],
    out: Annotated[str, typer.Argument(help="The artifact's own folder or URL.")],
    num_classes: Annotated[int | None, typer.Option(help="Given: labels are read, 0 to one below.")] = None,
    images_per_part: Annotated[int, typer.Option(help="Images per part.")] = 10_000,
) -> None:
    """Take in a source of images as an `images` artifact."""
    ingest = _settings(IngestConfig, num_classes=num_classes, images_per_part=images_per_part)
    _stage("prepare", PrepareConfig(ingest=ingest), {"source": source}, out)


@app.command()
def predict(
    checkpoint: Url,
    images: Url,
    out: Out,
    selection: Annotated[str | None, typer.Option(help="Label the images of this selection only.")] = None,
    distribution: Annotated[bool, typer.Option(help="Keep the probabilities of every class.")] = False,
) -> None:
    """Label images with a checkpoint."""
    inputs = {"checkpoint": checkpoint, "images": images} | ({"selection": selection} if selection else {})
    _stage("predict", PredictConfig(keep="distribution" if distribution else "label"), inputs, out)


@app.command()
def select(
    predictions: Url,
    images: Url,
    out: Out,
    per_class: Annotated[int, typer.Option(help="Images of each class, copies counted.")] = 130_000,
    threshold: Annotated[float, typer.Option(help="Kept: confidence above it.")] = 0.3,
    seed: Annotated[int, typer.Option(help="Decides which images are copied.")] = 0,
    exclusions: Annotated[str | None, typer.Option(help="Leave out the images of this artifact.")] = None,
) -> None:
    """Filter and balance predictions."""
    inputs = {"predictions": predictions, "images": images} | ({"exclusions": exclusions} if exclusions else {})
    _stage(
        "select", _settings(SelectConfig, threshold=threshold, num_images_per_class=per_class, seed=seed), inputs, out
    )


@app.command()
def evaluate(
    checkpoint: Url,
    images: Url,
    out: Annotated[str | None, typer.Option(help="Keep the numbers as an artifact here.")] = None,
) -> None:
    """Measure a checkpoint on labelled images."""
    with tempfile.TemporaryDirectory() as scratch:
        inputs = {"checkpoint": checkpoint, "images": images}
        manifest = _stage("evaluate", EvaluateConfig(benchmark="images"), inputs, out or scratch)
    for metric, value in manifest.facts["metrics"].items():
        typer.echo(f"{metric} {value:.4f}")


@app.command()
def verify(root: Annotated[str, typer.Argument(help="The root of a run.")]) -> None:
    """Check every part of every artifact under a root against its manifest."""
    urls = artifact_urls(root)
    found = [problem for url in urls for problem in problems(url)]
    for problem in found:
        typer.echo(problem, err=True)
    if found:
        raise DataError(f"{len(found)} problems in {len(urls)} artifacts under {root}; each line above says the remedy")
    typer.echo(f"{len(urls)} artifacts under {root} are whole")


@recipes_app.callback()
def list_recipes(context: typer.Context) -> None:
    """List the recipes, or show one."""
    if context.invoked_subcommand is None:
        for name, recipe in RECIPES.items():
            typer.echo(f"{name:22s} {(recipe.__doc__ or '').splitlines()[0]}")


@recipes_app.command("show")
def show_recipe(
    name: Annotated[str, typer.Argument(help="A recipe's name.")],
    assignments: Annotated[list[str] | None, typer.Option("--set", help="key=value put in place first.")] = None,
) -> None:
    """Print a recipe's complete configuration as YAML."""
    config = configure(name, overrides=parse_assignments(assignments or []))
    typer.echo(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), nl=False)


@app.command()
def up() -> None:
    """Start the Prefect server, its worker and MLflow, and deploy the flows; what runs already is reused."""
    typer.echo(console.addresses(console.start()))
    typer.echo("Run it: prefect deployment run noisy-student/iterate --watch")


@app.command()
def down() -> None:
    """Stop the local servers and what runs on them."""
    typer.echo(f"stopped: {', '.join(servers.down()) or 'nothing was running'}")


@app.command()
def status() -> None:
    """Show the local servers."""
    for service in servers.status():
        typer.echo(f"{service.name:8s} {service.state:14s} {service.url or ''} (log: {service.log})")


@app.command()
def demo() -> None:
    """Start the local servers, run the deployment on the digits, and show the table and where to look."""
    started = console.start()
    rows = console.run_deployment(started)
    typer.echo(report.table(rows))
    typer.echo(console.addresses(started))
    typer.echo("The servers stay up until: make down")


def _settings(kind: type[Kind], **values: Any) -> Kind:
    """Stage settings from options; raises `ConfigurationError` for a value out of range."""
    try:
        return kind(**values)
    except ValidationError as error:
        raise ConfigurationError(
            "; ".join(f"{e['loc'][0]}={e['input']!r}: {e['msg']}" for e in error.errors())
        ) from None


def _stage(call: str, config: StageSettings, inputs: Inputs, out: str) -> Manifest:
    """Run one stage in a worker process, without a server; `out` is the artifact's own folder."""
    with opened("local", call) as engine:
        engine.run(call, config, inputs, "", _show, out=out)
    manifest = Artifact.open(out).manifest
    dropped = "".join(f", {reason} {count}" for reason, count in manifest.drops.items())
    typer.echo(f"{call}: {manifest.num_rows} rows in {len(manifest.parts)} parts{dropped} -> {out}")
    return manifest


def _show(event: str, **fields: Any) -> None:
    if event == "progress":
        typer.echo(f"{fields['done']} of {fields['total']} {fields['unit']}", err=True)
    elif event == "message":
        typer.echo(fields["text"], err=True)


def main() -> None:
    """Entry point: errors of ours are one paragraph and exit status 1; NOISY_STUDENT_DEBUG=1 shows their traceback."""
    try:
        app()
    except NoisyStudentError as error:
        if os.environ.get("NOISY_STUDENT_DEBUG"):
            raise
        typer.echo(f"noisy-student: {error}", err=True)
        sys.exit(1)
