"""The frame around a run: everything checked before it starts, tracked while it lasts, closed at its end."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

from prefect import get_run_logger
from prefect.exceptions import UnfinishedRun, UpstreamTaskError
from prefect.runtime import flow_run

from noisystudent_core.config import SPLITS, NoisyStudentConfig
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.storage.digests import digest_of
from noisystudent_core.storage.filesystem import Folder, check_writable
from noisystudent_core.storage.sources import source_digest
from tasks.engines import opened
from tasks.progress import show_link
from tasks.running import Run, first_failure
from tasks.services import home_folder
from tasks.tracking import Tracker, default_tracking_uri


@contextmanager
def session(config: NoisyStudentConfig, root: str | None, engine: str) -> Iterator[Run]:
    """Check sources, root and models, open the tracked run, and end workers and run whatever happens.

    Raises `ConfigurationError`, `SourceError` or `RootError` before any stage starts, and a failed stage's own error.
    """
    run_id = str(flow_run.id)
    root = Folder.at(root or str(home_folder() / "artifacts")).url
    sources = check_sources(config)
    check_writable(root)
    tracker = Tracker(default_tracking_uri(home_folder()))
    with opened(engine, run_id) as workers:
        Thread(target=tracker.connect, daemon=True).start()  # MLflow and a worker take seconds each to import
        workers.run("check", config, {}, root, _warn)
        with _tracked(tracker, config, root, sources, run_id) as mlflow_run_id:
            try:
                yield Run(id=run_id, root=root, tracker=tracker, mlflow_run_id=mlflow_run_id)
            except (UpstreamTaskError, UnfinishedRun) as error:
                raise first_failure(run_id, error) from None


def _warn(event: str, **fields: Any) -> None:
    """Show what the check says of settings without an effect."""
    if event == "message":
        get_run_logger().warning(fields["text"])


@contextmanager
def _tracked(
    tracker: Tracker, config: NoisyStudentConfig, root: str, sources: dict[str, str], run_id: str
) -> Iterator[str | None]:
    """The run's MLflow run: the same one for the same configuration, sources and root."""
    mlflow_run_id = tracker.open_run(
        digest_of([config.model_dump(mode="json"), sources, root]),
        name=f"{config.name} seed {config.seed}",
        params={"root": root, **config.model_dump(mode="json")},
        tags={"recipe": config.name},
        flow_run_id=run_id,
        flow_run_url=flow_run.ui_url,
    )
    address = tracker.run_url(mlflow_run_id)
    show_link("mlflow", address, f"{config.name} seed {config.seed} in MLflow")
    get_run_logger().info("artifacts go to %s, numbers to %s", root, address or tracker.tracking_uri)
    status = "FAILED"
    try:
        yield mlflow_run_id
        status = "FINISHED"
    finally:
        tracker.close_run(mlflow_run_id, status)


def check_sources(config: NoisyStudentConfig) -> dict[str, str]:
    """The digest of each source's listing; raises `ConfigurationError` or `SourceError` for one that is not there."""
    for split in ("labelled", "unlabelled"):
        if config.source(split) is None:
            raise ConfigurationError(f"{split}: no source; give the URL of Parquet files with an `image` column")
    return {split: source_digest(source) for split in SPLITS if (source := config.source(split)) is not None}
