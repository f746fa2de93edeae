"""`noisy-student plan`: what a run takes, before it is started."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.options import RecipeName
from noisystudent_core.config import parse_assignments
from noisystudent_core.recipes import configure
from tasks.engines import opened
from tasks.planning import planned


def plan(
    recipe: RecipeName = "digits",
    labelled: Annotated[str | None, typer.Option(help="Labelled images.")] = None,
    unlabelled: Annotated[str | None, typer.Option(help="Unlabelled images.")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="So many unlabelled images, wherever they are.")] = None,
    validation: Annotated[str | None, typer.Option(help="Images that choices are made on.")] = None,
    test: Annotated[str | None, typer.Option(help="Images that the table reports.")] = None,
    student: Annotated[str | None, typer.Option(help="timm name of every student's net.")] = None,
    num_iterations: Annotated[int | None, typer.Option(help="How many students.")] = None,
    shrink: Annotated[float, typer.Option(help="Factor on the recipe's images and steps.")] = 1.0,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="Any other setting, key=value.")] = None,
    devices: Annotated[int, typer.Option(min=1, help="How many devices the run has.")] = 1,
    device: Annotated[
        str | None, typer.Option(help='Plan for this device on paper, as "H200"; else for this machine, measured.')
    ] = None,
    measuring_s: Annotated[float, typer.Option(min=0, help="Seconds for measuring, at most; 0: none.")] = 80.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the plan to this file.")] = None,
) -> None:
    """Show what a run takes, stage by stage: images, storage, memory, device-hours and time, with the arithmetic."""
    sources = {"labelled": labelled, "unlabelled": unlabelled, "validation": validation, "test": test}
    config = configure(
        recipe,
        sources=sources,
        shrink=shrink,
        student=student,
        num_iterations=num_iterations,
        overrides=parse_assignments(assignments or []),
    )
    with opened("local", "plan") as engine:
        found = planned(
            engine,
            config,
            _say,
            num_unlabelled=images,
            num_devices=devices,
            device_name=device,
            measuring_s=measuring_s,
        )
    typer.echo(found["text"])
    if json_file is not None:
        json_file.write_text(json.dumps({k: found[k] for k in ("totals", "notes", "stages")}, indent=1) + "\n")


def _say(event: str, **fields: object) -> None:
    if event == "message":
        typer.echo(fields["text"], err=True)
