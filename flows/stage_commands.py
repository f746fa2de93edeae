"""A command for each stage: the core is called in a worker process, no server is needed."""

import tempfile
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError

from noisystudent_core.config import (
    EvaluateConfig,
    IngestConfig,
    PredictConfig,
    PrepareConfig,
    SelectConfig,
    StageSettings,
)
from noisystudent_core.errors import ConfigurationError, DataError
from noisystudent_core.storage.manifest import Artifact, Inputs, Manifest
from noisystudent_core.storage.verify import artifact_urls, problems
from tasks.engines import opened

Kind = TypeVar("Kind", bound=StageSettings)
Url = Annotated[str, typer.Option(help="Folder or URL of an artifact.")]
Out = Annotated[str, typer.Option(help="The artifact's own folder or URL.")]
SOURCES = (
    "Folders with a folder of images for each class, tars (WebDataset), Parquet with images, tables of addresses (CSV, "
    "Parquet), IDX files, torchvision:NAME?root=FOLDER&split=train, or prepared artifacts; globs and {a,b} too."
)


def prepare(
    sources: Annotated[list[str], typer.Argument(help=SOURCES)],
    out: Annotated[str, typer.Argument(help="The artifact's own folder or URL; of a split, the folder of its sides.")],
    labelled: Annotated[bool, typer.Option("--labelled", help="Read labels, of as many classes as are named.")] = False,
    num_classes: Annotated[int | None, typer.Option(help="Given: labels are read, 0 to one below.")] = None,
    class_names: Annotated[str | None, typer.Option(help="Names of the classes in order, with commas between.")] = None,
    classes_of: Annotated[str | None, typer.Option(help="The same classes as this prepared artifact.")] = None,
    labelled_per_class: Annotated[int | None, typer.Option(help="Keep so many labels; the rest is unlabelled.")] = None,
    validation_share: Annotated[float, typer.Option(help="Share of each class that is put aside.")] = 0.0,
    shuffle: Annotated[bool, typer.Option("--shuffle", help="Shuffle across all parts, by the seed.")] = False,
    seed: Annotated[int, typer.Option(help="Decides over split and order.")] = 0,
    images_per_part: Annotated[int, typer.Option(help="Images per part, at most.")] = 10_000,
    bytes_per_part: Annotated[int, typer.Option(help="Bytes of encoded images per part, at most.")] = 256_000_000,
    shorter_side_px: Annotated[int | None, typer.Option(help="Shrink larger images and encode them again.")] = None,
    index_only: Annotated[bool, typer.Option("--index-only", help="Refer to the images, do not copy them.")] = False,
    max_bad_fraction: Annotated[float, typer.Option(help="Share of images that may be undecodable.")] = 0.01,
) -> None:
    """Take in images as an `images` artifact, or as the sides of a split: labelled, validation, unlabelled."""
    given = locals()
    names = tuple(class_names.split(",")) if class_names else _classes_of(classes_of)
    own = {name: given[name] for name in IngestConfig.model_fields if name in given} | {"class_names": names}
    settings = {name: given[name] for name in PrepareConfig.model_fields if name in given}
    settings |= {"ingest": _settings(IngestConfig, **own)}
    inputs = {"source": "\n".join(sources)}
    if not validation_share and labelled_per_class is None:
        config = _settings(PrepareConfig, **settings, read_labels=labelled or names is not None)
        _stage("prepare", config, inputs, out)
        return
    sides = {"labelled": "training"} | ({"validation": "validation"} if validation_share else {})
    for name, share in (sides | ({"unlabelled": "unlabelled"} if labelled_per_class else {})).items():
        config = _settings(PrepareConfig, **settings, read_labels=True, share=share)
        _stage("prepare", config, inputs, f"{out.rstrip('/')}/{name}")


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


def verify(root: Annotated[str, typer.Argument(help="The root of a run.")]) -> None:
    """Check every part of every artifact under a root against its manifest."""
    urls = artifact_urls(root)
    found = [problem for url in urls for problem in problems(url)]
    for problem in found:
        typer.echo(problem, err=True)
    if found:
        raise DataError(f"{len(found)} problems in {len(urls)} artifacts under {root}; each line above says the remedy")
    typer.echo(f"{len(urls)} artifacts under {root} are whole")


COMMANDS = (prepare, predict, select, evaluate, verify)


def _classes_of(url: str | None) -> tuple[str, ...] | None:
    """The class names of a prepared artifact; raises `ConfigurationError` where it has none."""
    if url is None:
        return None
    names = Artifact.open(url, "images").manifest.facts.get("class_names")
    if not names:
        raise ConfigurationError(f"--classes-of {url}: has no class names; give --num-classes or --class-names")
    return tuple(names)


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
