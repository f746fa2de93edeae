"""The `noisy-student` command: runs the flows, the stages one by one, and the local servers."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from flows import console, plan_command, stage_commands
from flows.options import RecipeName, recipe_names
from noisystudent_core.config import parse_assignments
from noisystudent_core.errors import NoisyStudentError
from noisystudent_core.evaluation import report, studies
from noisystudent_core.recipes import RECIPES, configure
from tasks import servers
from tasks.plain_errors import DEBUG

SETTINGS = ("seed", "student", "num_iterations", "unlabelled_ratio", "threshold", "num_images_per_class", "shrink")

app = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False)
recipes_app = typer.Typer(invoke_without_command=True, help="List the recipes, or show one.")
app.add_typer(recipes_app, name="recipes")


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Turn labelled images and many unlabelled ones into a better classifier; or do one step of it."""
    if debug:
        os.environ[DEBUG] = "1"


@app.command()
def run(
    recipe: RecipeName = "digits",
    root: Annotated[str | None, typer.Option(help="Folder or URL of all artifacts.")] = None,
    labelled: Annotated[str | None, typer.Option(help="Labelled images: prepared, or any source.")] = None,
    unlabelled: Annotated[str | None, typer.Option(help="Unlabelled images, likewise.")] = None,
    validation: Annotated[str | None, typer.Option(help="Images that choices are made on.")] = None,
    test: Annotated[str | None, typer.Option(help="Images that the table reports.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the whole run.")] = 0,
    engine: Annotated[str, typer.Option(help="Where stages run: local, or ray.")] = "local",
    student: Annotated[str | None, typer.Option(help="timm name of every student's net.")] = None,
    num_iterations: Annotated[int | None, typer.Option(help="How many students.")] = None,
    unlabelled_ratio: Annotated[float | None, typer.Option(help="Unlabelled : labelled images a step.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Confidence above which pseudo labels are kept.")] = None,
    num_images_per_class: Annotated[int | None, typer.Option(help="Selected images of each class.")] = None,
    shrink: Annotated[float, typer.Option(help="Factor on the recipe's images and steps, for a trial.")] = 1.0,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="Any other setting, key=value.")] = None,
    register_model: Annotated[
        bool, typer.Option("--register/--no-register", help="Put the last student into MLflow's registry.")
    ] = True,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the table's rows to this file.")] = None,
) -> None:
    """Run the whole flow in this process, on the Prefect server that answers or on one of its own."""
    parameters = {k: v for k, v in locals().items() if k not in ("assignments", "json_file")}
    overrides = parse_assignments(assignments or [])
    configure(recipe, **{name: parameters[name] for name in SETTINGS}, overrides=overrides)  # before a server starts
    rows = console.run_flow("noisy_student", {**parameters, "overrides": overrides or None})
    typer.echo(report.table(rows))
    _write_json(rows, json_file)


@app.command()
def ablate(
    study: Annotated[str, typer.Option(help="table6, figure2, or one of the appendix.")] = "table6",
    recipe: RecipeName = "digits",
    root: Annotated[str | None, typer.Option(help="Folder or URL of all artifacts.")] = None,
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="Once for each; by default 0, 1 and 2.")] = None,
    nets: Annotated[list[str] | None, typer.Option("--net", help="timm names, once for each, smallest first.")] = None,
    unlabelled: Annotated[list[str] | None, typer.Option(help="NAME=URL of a set to study; once for each.")] = None,
    engine: Annotated[str, typer.Option(help="Where stages run: local, or ray.")] = "local",
    shrink: Annotated[float, typer.Option(help="Factor on the recipe's images and steps, for a trial.")] = 1.0,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of all variants, key=value.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the table's rows to this file.")] = None,
) -> None:
    """Compare variants of a recipe over seeds: the paper's studies."""
    parameters = {k: v for k, v in locals().items() if k not in ("assignments", "json_file", "unlabelled")}
    sets = parse_assignments(unlabelled or [])
    overrides = parse_assignments(assignments or [])
    rows = console.run_flow("ablate", {**parameters, "unlabelled": sets or None, "overrides": overrides or None})
    typer.echo(studies.table(rows))
    _write_json(rows, json_file)


@app.command("evaluate-model")
def evaluate_model(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint, timm:NAME, or a safetensors file.")],
    images: Annotated[str | None, typer.Option(help="Labelled images of your own.")] = None,
    folders: Annotated[
        list[str] | None, typer.Option("--folder", help="KIND=URL, as imagenet_c=...; or folder.")
    ] = None,
    suites: Annotated[
        list[str] | None, typer.Option("--suite", help="corruptions, perturbations, adversarial.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="timm name of the net, where the checkpoint is a file.")] = None,
    num_classes: Annotated[int | None, typer.Option(help="Of the file's head.")] = None,
    root: Annotated[str | None, typer.Option(help="Folder or URL of all artifacts.")] = None,
    engine: Annotated[str, typer.Option(help="Where stages run: local, or ray.")] = "local",
    assignments: Annotated[list[str] | None, typer.Option("--set", help="Any other setting, key=value.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows to this file.")] = None,
) -> None:
    """Measure any model: accuracy, calibration, robustness, and the released benchmarks."""
    parameters = {k: v for k, v in locals().items() if k not in ("assignments", "json_file", "folders")}
    overrides = parse_assignments(assignments or [])
    given = {"folders": parse_assignments(folders or []) or None, "overrides": overrides or None}
    rows = console.run_flow("evaluate_model", parameters | given)
    typer.echo(f"{'benchmark':14s} {'suite':14s} {'metric (shares in percent)':44s} {'value':>9s} {'images':>9s}")
    for row in rows:
        if row["metric"].count("/") < 2:
            what = f"{row['benchmark']:14s} {row['suite']:14s} {row['metric']:44s}"
            typer.echo(f"{what} {row['value']:9.4f} {row['num_images']:9,d}")
    typer.echo(f"With charts and pictures: {rows[0]['report']}/report.html")
    _write_json(rows, json_file)


for command in stage_commands.COMMANDS:
    app.command()(command)
app.command()(plan_command.plan)


def _write_json(rows: list[dict[str, Any]], file: Path | None) -> None:
    if file is not None:
        file.write_text(json.dumps(rows, indent=1) + "\n")


@recipes_app.callback()
def list_recipes(context: typer.Context) -> None:
    """List the recipes, or show one."""
    if context.invoked_subcommand is None:
        for name, recipe in RECIPES.items():
            typer.echo(f"{name:22s} {(recipe.__doc__ or '').splitlines()[0]}")


@recipes_app.command("show")
def show_recipe(
    name: Annotated[str, typer.Argument(help="A recipe's name.", autocompletion=recipe_names)],
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


def main() -> None:
    """Entry point: an error is one paragraph, with --debug a traceback.

    Exit status 1: wrong input, or a stage that failed; 2: wrong usage; 70: a defect of ours; 130: interrupted.
    """
    arguments = [word for word in sys.argv[1:] if word != "--debug"]
    try:
        app(["--debug", *arguments] if len(arguments) < len(sys.argv) - 1 else arguments)
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        known = isinstance(error, NoisyStudentError)
        words = str(error) if known else f"{type(error).__name__}: {error}; a defect: please report it, with --debug"
        typer.echo(f"noisy-student: {words}", err=True)
        sys.exit(1 if known else 70)
