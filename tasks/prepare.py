"""Sources become image parts; copies of evaluation images among the unlabelled ones are found."""

from typing import Any

from prefect import task
from prefect.client.schemas.objects import State

from noisystudent_core.config import SPLITS, NoisyStudentConfig, PrepareConfig
from noisystudent_core.data.labels import check_same_names
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import Artifact, Manifest
from noisystudent_core.storage.prepared import IMAGES
from tasks.by_part import by_part
from tasks.progress import Progress
from tasks.running import RETRIES, Ref, Run, run_stage
from tasks.tracking import TrackedData


@task(name="prepare", task_run_name="prepare {split}", **RETRIES)
def prepare(
    split: str, source: str, config: NoisyStudentConfig, run: Run, evaluation: dict[str, Ref] | None = None
) -> State[str]:
    """Take in one of the sources, whose classes are those of the `evaluation` sets, and log it as a data set."""
    state = run_stage("prepare", config.prepare(split), {"source": source}, run, f"prepare {split}")
    names = _class_names(str(state.data))
    for other, url in (evaluation or {}).items():
        check_same_names(other, _class_names(str(url)), split, names)
    log_data(split, str(state.data), run)
    return state


@task(name="exclusions", task_run_name="exclusions", **RETRIES)
def exclude(inputs: dict[str, Ref], config: NoisyStudentConfig, run: Run) -> State[str]:
    """Find copies of evaluation images among {"unlabelled"}, by {"fingerprints"}; the other inputs are those sets."""
    return run_stage("exclusions", config.exclusions(), inputs, run, "exclusions", metrics=_found)


def exclusions(data: dict[str, Ref], config: NoisyStudentConfig, run: Run) -> Ref:
    """Submit the search for copies of evaluation images, and where near ones count the hashing that it needs."""
    inputs = {name: images for name, images in data.items() if name in ("unlabelled", "validation", "test")}
    if (settings := config.fingerprint()) is not None:
        unlabelled = {"unlabelled": data["unlabelled"]}
        inputs["fingerprints"] = by_part("fingerprint unlabelled", "fingerprint", settings, unlabelled, run)
    return exclude.submit(inputs, config, run)


def prepare_all(config: NoisyStudentConfig, run: Run) -> dict[str, Ref]:
    """Submit the intake of every source that the run has; the labelled images last, with which learning begins."""
    sources = {split: source for split in SPLITS if (source := config.source(split))}
    labelled = sources.pop("labelled")
    data = {split: prepare.submit(split, source, config, run) for split, source in sources.items()}
    evaluation = {split: images for split, images in data.items() if split != "unlabelled"}
    return {"labelled": prepare.submit("labelled", labelled, config, run, evaluation), **data}


def _class_names(url: str) -> list[str] | None:
    return Artifact.open(url).manifest.facts.get("class_names")


def _found(manifest: Manifest) -> dict[str, float]:
    return {f"exclusions/{reason}": count for reason, count in manifest.facts.items()}


def log_data(split: str, url: str, run: Run) -> None:
    """Log a prepared set, by content digest, as a data set of the tracked run."""
    manifest = Artifact.open(url).manifest
    data = TrackedData(role=split, name=split, digest=manifest.content_digest, source=url, num_rows=manifest.num_rows)
    run.tracker.log_inputs(run.mlflow_run_id, [data])


@task(name="prepare side", task_run_name="prepare {name}", **RETRIES)
def prepare_side(name: str, config: PrepareConfig, source: str, out: str, run: Run) -> str:
    """Take in a source, or one side of it, into a folder of its own, and log it as a data set of the run."""
    with Progress(f"prepare {name}") as progress:
        run.engine.run("prepare", config, {"source": source}, "", progress.listen, out=out)
    url = Folder.at(out).url
    log_data(name, url, run)
    return url


def prepare_sides(configs: dict[str, PrepareConfig], source: str, out: str, run: Run) -> dict[str, Ref]:
    """Submit the intake of a source by the sides of its split, one after another: they share what is taken in."""
    found: dict[str, Ref] = {}
    for side, config in configs.items():
        name, folder = side or IMAGES, (Folder.at(out) / side).url
        before: dict[str, Any] = {"wait_for": [*found.values()]}
        found[name] = prepare_side.submit(name, config, source, folder, run, **before)
    return found
