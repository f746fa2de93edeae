"""`noisy-student inspect`: what is in sets of images, without a server."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.terminal import followed
from noisystudent_core.config import InspectConfig, InspectPartsConfig, PrepareConfig, StageSettings
from noisystudent_core.config.overrides import validated
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import NAME, Artifact, Inputs, artifact_url, finished, input_digests
from noisystudent_core.storage.prepared import (
    IMAGES,
    PAGE,
    inspection_inputs,
    inspection_root,
    prepared_sets,
    put_page,
    refuse_leaks,
)
from tasks.engines import Engine, opened
from tasks.services import home_folder


def inspect(
    url: Annotated[str | None, typer.Argument(help="What was prepared, or any source of images.")] = None,
    labelled: Annotated[str | None, typer.Option(help="Labelled images, prepared or any source.")] = None,
    unlabelled: Annotated[str | None, typer.Option(help="Unlabelled images, likewise.")] = None,
    validation: Annotated[str | None, typer.Option(help="Images that choices are made on.")] = None,
    test: Annotated[str | None, typer.Option(help="Images that are reported.")] = None,
    num_classes: Annotated[int | None, typer.Option(help="Of sources whose labels are numbers without names.")] = None,
    index_only: Annotated[bool, typer.Option("--index-only", help="Refer to a source's images, copy none.")] = False,
    near_radius: Annotated[int, typer.Option(help="Bits of 64 in which hashes of look-alikes differ, at most.")] = 4,
    allow_leaks: Annotated[bool, typer.Option("--allow-leaks", help="Evaluation images may be in training.")] = False,
    root: Annotated[str | None, typer.Option(help="Folder or URL of what is kept for the next time.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the page to this file.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file.")] = None,
) -> None:
    """Show what is in images: classes, sizes, formats, damage, repeats, and evaluation images in training."""
    config = validated({"near_radius": near_radius}, InspectConfig)
    splits = {"labelled": labelled, "unlabelled": unlabelled, "validation": validation, "test": test}
    given = {name: source for name, source in splits.items() if source is not None}
    at_url = prepared_sets(url) if url is not None else {}
    if url is not None and not at_url:
        given[IMAGES] = url
    elif not at_url and not given:
        raise ConfigurationError("nothing to inspect; give the URL of images, or --labelled and others")
    if root is None:
        root = inspection_root(url) if url is not None and at_url else str(home_folder() / "artifacts")
    with opened("local", "inspect") as engine:
        classes = {"num_classes": num_classes, "index_only": index_only}
        taken_in = {name: _taken_in(engine, name, source, classes, root) for name, source in given.items()}
        folder = _inspected(engine, config, at_url | taken_in, root)
    typer.echo(folder.read("inspection.md").decode())
    if out is not None:
        out.write_bytes(folder.read(PAGE))
    if json_file is not None:
        json_file.write_bytes(folder.read("inspection.json"))
    typer.echo(f"with charts and pictures: {out or f'{folder.url}/{PAGE}'}", err=True)
    refuse_leaks(folder.url, allow_leaks)


def inspect_prepared(engine: Engine[Any], url: str) -> None:
    """Print in a few lines what is in what was prepared, and put the page beside it."""
    folder = _inspected(engine, InspectConfig(), prepared_sets(url), inspection_root(url))
    for finding in Artifact.open(folder.url).manifest.facts["findings"]:
        typer.echo(f"{finding['level']}: {finding['text']}", err=True)
    typer.echo(f"inspected: {put_page(folder.url, url)}", err=True)


def _taken_in(engine: Engine[Any], name: str, source: str, classes: Mapping[str, Any], root: str) -> str:
    """The artifact of a set's images: what `source` is, else taken in under the root, whatever is damaged in it."""
    if Folder.at(source).exists(NAME):
        return Artifact.open(source, IMAGES).url
    reads = {IMAGES: "named", "unlabelled": False}.get(name, True)
    ingest = classes if name != "unlabelled" else {**classes, "num_classes": None}
    settings = {"ingest": ingest, "read_labels": reads, "max_bad_fraction": 1.0}
    return _run(engine, "prepare", validated(settings, PrepareConfig), {"source": source}, root)


def _inspected(engine: Engine[Any], config: InspectConfig, images: Mapping[str, str], root: str) -> Folder:
    """The folder of the finished inspection."""
    looked_at = {
        name: _run(engine, "inspect_parts", InspectPartsConfig(), {"images": url}, root) for name, url in images.items()
    }
    return Folder.at(_run(engine, "inspect", config, inspection_inputs(images, looked_at), root))


def _run(engine: Engine[Any], call: str, config: StageSettings, inputs: Inputs, root: str) -> str:
    """Have a stage finished; what is finished already takes no worker."""
    url = artifact_url(config, input_digests(inputs), root)
    if finished(url) is None:
        with followed(call) as events:
            engine.run(call, config, inputs, root, events)
    return url
