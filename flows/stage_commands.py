"""A command for each stage: the core is called in a worker process, no server is needed."""

import tempfile
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError

from flows import inspect_command
from flows.terminal import followed
from noisystudent_core.config import EvaluateConfig, PredictConfig, SelectConfig, StageSettings
from noisystudent_core.config.preparations import preparations
from noisystudent_core.errors import ConfigurationError, DataError
from noisystudent_core.storage import cleaning, exporting, prepared
from noisystudent_core.storage.manifest import Artifact, Inputs, Manifest
from noisystudent_core.storage.verify import artifact_urls, problems
from tasks.engines import Engine, opened

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
    inspect: Annotated[bool, typer.Option(help="Look at what came out, and write inspection.html beside it.")] = True,
) -> None:
    """Take in images as an `images` artifact, or as the sides of a split: labelled, validation, unlabelled."""
    names = tuple(class_names.split(",")) if class_names else prepared.classes_of(classes_of)
    configs = preparations({**locals(), "class_names": names}, labelled=labelled)
    with opened("local", "prepare") as engine:
        for name, config in configs.items():
            folder = f"{out.rstrip('/')}/{name}" if name else out
            _finish(engine, "prepare", config, {"source": "\n".join(sources)}, folder)
        if inspect:
            inspect_command.inspect_prepared(engine, out)


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


def export(
    root: Annotated[str, typer.Argument(help="The root of a run.")],
    out: Annotated[str, typer.Argument(help="An empty folder or URL.")],
    max_bytes: Annotated[int, typer.Option(min=1, help="Of a file.")] = exporting.MAX_BYTES,
    everything: Annotated[bool, typer.Option("--everything", help="The parts of all artifacts, too.")] = False,
) -> None:
    """Pack manifests, checkpoints, evaluations and reports into files of bounded size."""
    names = exporting.export(root, out, max_bytes=max_bytes, everything=everything)
    typer.echo(f"{len(names)} files in {out}; unpack them: cat {out}/{exporting.PIECE}* | tar -x -C ROOT")


def clean(
    root: Annotated[str, typer.Option(help="The root of runs.")],
    keep_runs: Annotated[int, typer.Option(help="The newest runs, whose artifacts stay.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Remove the artifacts of a root that no kept run refers to."""
    found = cleaning.plan(root, keep_runs) if dry_run else cleaning.clean(root, keep_runs, typer.echo)
    for line in (*found.artifacts, *(f"left for now: {line}" for line in found.left)):
        typer.echo(line)
    done = "would be removed" if dry_run else "removed"
    what = f"{len(found.artifacts)} artifacts, {len(found.files)} files, {found.num_bytes:,} bytes"
    typer.echo(f"{done}: {what}; kept runs: {', '.join(run.name for run in found.kept)}")


COMMANDS = (prepare, inspect_command.inspect, predict, select, evaluate, verify, export, clean)


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
        return _finish(engine, call, config, inputs, out)


def _finish(engine: Engine[Any], call: str, config: StageSettings, inputs: Inputs, out: str) -> Manifest:
    with followed(call) as events:
        engine.run(call, config, inputs, "", events, out=out)
    manifest = Artifact.open(out).manifest
    dropped = "".join(f", {reason} {count}" for reason, count in manifest.drops.items())
    typer.echo(f"{call}: {manifest.num_rows} rows in {len(manifest.parts)} parts{dropped} -> {out}")
    return manifest
