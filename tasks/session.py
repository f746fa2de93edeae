"""The frame around a run: everything checked before it starts, tracked while it lasts, closed at its end."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Thread
from typing import Any

from prefect import get_run_logger
from prefect.exceptions import UnfinishedRun, UpstreamTaskError
from prefect.runtime import flow_run

from noisystudent_core.config import SPLITS, NoisyStudentConfig
from noisystudent_core.errors import ConfigurationError, WorkerDiedError
from noisystudent_core.storage.digests import digest_of
from noisystudent_core.storage.filesystem import Folder, check_writable
from noisystudent_core.storage.run_records import RunNotes
from noisystudent_core.storage.secrets import refuse_any_secrets, without_secrets
from noisystudent_core.storage.sources import source_digest
from tasks.engines import Engine, opened
from tasks.mlflow_connection import check_ui_address
from tasks.mlflow_entities import leaves
from tasks.planning import log_plan
from tasks.progress import show_link
from tasks.running import Run, first_failure
from tasks.services import home_folder
from tasks.tracking import Tracker, default_tracking_uri

CHECKS = 3


@contextmanager
def session(config: NoisyStudentConfig, root: str | None, engine: str) -> Iterator[Run]:
    """Check sources, root and models, open the tracked run, and end workers and run whatever happens.

    Raises `ConfigurationError`, `SourceError` or `RootError` before any stage starts, and a failed stage's own error.
    """
    refuse_any_secrets([config.model_dump(mode="json"), root])
    sources = check_sources(config)
    root = checked_root(root)

    def check(workers: Engine[Any]) -> None:
        check_models(workers, config, root)
        log_plan(workers, config, get_run_logger())

    named = {"name": f"{config.name} seed {config.seed}", "tags": {"recipe": config.name}}
    settings = config.model_dump(mode="json")
    with tracked(root, engine, identity=[settings, sources, root], params=settings, check=check, **named) as run:
        yield run


@contextmanager
def tracked(
    root: str,
    engine: str,
    *,
    name: str,
    identity: Any,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    check: Any = lambda workers: None,
) -> Iterator[Run]:
    """An engine and an MLflow run, the same one for an equal `identity`, while the block lasts.

    `check` is given the engine before anything starts. Raises a failed stage's own error.
    """
    refuse_any_secrets([name, params])
    check_ui_address()
    run_id, tracker, digest = str(flow_run.id), Tracker(default_tracking_uri(home_folder())), digest_of(identity)
    given = [str(value) for _, value in leaves(params)]
    with opened(engine, run_id) as workers, RunNotes(root, digest).lasting(run_id, name, given):
        Thread(target=tracker.connect, daemon=True).start()  # MLflow and a worker take seconds each to import
        check(workers)
        mlflow_run_id = tracker.open_run(
            digest,
            name=name,
            params={"root": root, **params},
            tags=tags,
            flow_run_id=run_id,
            flow_run_url=flow_run.ui_url,
        )
        address = tracker.run_url(mlflow_run_id)
        show_link("mlflow", address, f"{name} in MLflow")
        get_run_logger().info(
            "artifacts go to %s, numbers to %s", root, address or without_secrets(tracker.tracking_uri)
        )
        status = "FAILED"
        try:
            yield Run(id=run_id, root=root, tracker=tracker, mlflow_run_id=mlflow_run_id, digest=digest)
            status = "FINISHED"
        except (UpstreamTaskError, UnfinishedRun) as error:
            raise first_failure(run_id, error) from None
        except BaseException as error:
            if not isinstance(error, Exception):  # asked to stop: workers end before anything is told to anyone
                workers.close()
            raise
        finally:
            tracker.close_run(mlflow_run_id, status)


def check_models(workers: Engine[Any], config: NoisyStudentConfig, root: str) -> None:
    """Have the core check what only models can tell; a worker that dies over it is no wrong setting: tried thrice."""
    for attempt in range(1, CHECKS + 1):
        try:
            workers.run("check", config, {}, root, _warn)
            return
        except WorkerDiedError:
            if attempt == CHECKS:
                raise


def checked_root(root: str | None) -> str:
    """The root's address, by default the checkout's own; raises `RootError` where it cannot be written."""
    url = Folder.at(root or str(home_folder() / "artifacts")).url
    check_writable(url)
    return url


def check_sources(config: NoisyStudentConfig) -> dict[str, str]:
    """The digest of each source's listing; raises `ConfigurationError` or `SourceError` for one that is not there."""
    for split in ("labelled", "unlabelled"):
        if config.source(split) is None:
            raise ConfigurationError(f"{split}: no source; give the URL of Parquet files with an `image` column")
    return {split: source_digest(source) for split in SPLITS if (source := config.source(split)) is not None}


def _warn(event: str, **fields: Any) -> None:
    """Show what the check says of settings without an effect, and what it waits for."""
    if event == "message":
        get_run_logger().warning(fields["text"])
    elif event == "waiting":
        get_run_logger().info(fields["text"])
