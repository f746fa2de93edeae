"""What a study needs before its first run, and how its runs become a table, in Prefect and MLflow."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from prefect import task
from prefect.runtime import flow_run
from pydantic import BaseModel, ConfigDict

from noisystudent_core.config import NoisyStudentConfig
from noisystudent_core.evaluation import studies
from noisystudent_core.evaluation.studies import Outcome
from noisystudent_core.recipes.studies import study as study_of
from noisystudent_core.storage.digests import digest_of
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import Artifact
from tasks.engines import opened
from tasks.progress import artifact_key, show_markdown, show_table
from tasks.running import RETRIES
from tasks.services import home_folder
from tasks.session import check_models, check_sources, checked_root
from tasks.tracking import Tracker, default_tracking_uri

LOSSES = {"loss_labelled": "train/loss_labelled", "loss_unlabelled": "train/loss_unlabelled"}


class StudyRun(BaseModel):
    """One run of a variant, with the rows of its table."""

    model_config = ConfigDict(frozen=True)

    data: str  # what the unlabelled images are called; "" where there is one set
    variant: str
    seed: int
    rows: list[dict[str, Any]]


def name_of(recipe: str, data: str, variant: str) -> str:
    """What a study's runs of a variant are called, in MLflow and above their reports."""
    return ", ".join(word for word in (recipe, data, variant) if word)


@contextmanager
def checked(runs: Sequence[NoisyStudentConfig], root: str | None, engine: str) -> Iterator[None]:
    """One engine for all runs of a study, after each is found to be possible.

    Raises, before the first run, what a run's own checks do (`session`).
    """
    for sources in {run.sources: run for run in runs}.values():
        check_sources(sources)
    url = checked_root(root)
    with opened(engine, str(flow_run.id)) as workers:
        for run in runs:
            check_models(workers, run, url)
        yield


@task(name="compare", task_run_name="compare {study}", **RETRIES)
def compare(study: str, recipe: str, runs: list[StudyRun], root: str | None) -> list[dict[str, Any]]:
    """The study's table: means over seeds with their errors; in Prefect, in MLflow, and returned."""
    found = study_of(study)
    folder = Folder.at(root or str(home_folder() / "artifacts"))
    rows = studies.summary([_outcome(run, folder) for run in runs], found.reference)
    text = studies.markdown(f"{found.title} ({found.source}), {recipe}", rows, found.reference)
    show_table(f"study-{study}", rows, f"{found.title} ({found.source}), recipe {recipe}")
    show_markdown(f"study-{study}-report", text)
    _track(study, recipe, rows, text)
    return rows


def _outcome(run: StudyRun, root: Folder) -> Outcome:
    last = run.rows[-1]
    final = Artifact.open((root / last["checkpoint"]).url).manifest.facts.get("final", {})
    numbers = {name: last[name] for name in ("top1", "supervised_top1") if last.get(name) is not None}
    numbers |= {name: final[key] for name, key in LOSSES.items() if key in final}
    return Outcome(data=run.data, variant=run.variant, seed=run.seed, numbers=numbers)


def _track(study: str, recipe: str, rows: list[dict[str, Any]], text: str) -> None:
    tracker = Tracker(default_tracking_uri(home_folder()))
    name = artifact_key(f"study {study} {recipe}")
    run_id = tracker.open_run(
        digest_of([study, recipe, rows]),
        name=name,
        params={"study": study, "recipe": recipe},
        tags={"recipe": recipe, "study": study},
        flow_run_id=name,
        flow_run_url=None,
    )
    tracker.log_table(run_id, "study", rows)
    tracker.log_text(run_id, "study.md", text)
    tracker.close_run(run_id, "FINISHED")
