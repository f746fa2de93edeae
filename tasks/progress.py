"""What a user sees in Prefect: progress bars, tables, and images and links that lead to MLflow."""

import re
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from prefect import get_run_logger
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

FIRST_AFTER_S = 5.0  # stages shorter than this show no bar
EVERY_S = 3.0


class Progress:
    """A stage's progress bar, in Prefect and as lines of the log; appears once the stage has run for a few seconds."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._artifact: Any = None  # the artifact's UUID
        self._started = self._shown = time.monotonic()

    def listen(self, event: str, **fields: Any) -> None:
        """Take a stage's events: `progress` moves the bar, `message` goes to the log."""
        if event == "progress":
            self._update(**fields)
        elif event == "message":
            get_run_logger().info("%s: %s", self._name, fields["text"])

    def _update(self, done: int, total: int, unit: str) -> None:
        now = time.monotonic()
        if now - self._started < FIRST_AFTER_S or now - self._shown < EVERY_S:
            return
        self._shown = now
        rate = done / (now - self._started)
        left = (total - done) / rate if rate else float("inf")
        get_run_logger().info("%s: %d of %d %s, %.0f a second, %.0f s left", self._name, done, total, unit, rate, left)
        self._show(100 * done / max(total, 1))

    def _show(self, percent: float) -> None:
        if self._artifact is None:
            key = f"progress-{artifact_key(self._name)}"
            self._artifact = create_progress_artifact(percent, key=key, description=self._name)
        else:
            update_progress_artifact(self._artifact, progress=percent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._artifact is not None and error is None:
            self._show(100.0)


def show_table(name: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
    """A table in the UI's artifacts."""
    create_table_artifact([dict(row) for row in rows], key=artifact_key(name), description=description)


def show_link(name: str, url: str | None, text: str) -> None:
    """A link in the UI's artifacts, where there is an address to go to."""
    if url is not None:
        create_link_artifact(url, link_text=text, key=artifact_key(name))


def show_image(name: str, url: str | None, description: str) -> None:
    """An image in the UI's artifacts, where there is an address that a browser can load it from."""
    if url is not None:
        create_image_artifact(url, key=artifact_key(name), description=description)


def show_markdown(name: str, text: str) -> None:
    """A page in the UI's artifacts."""
    create_markdown_artifact(text, key=artifact_key(name))


def artifact_key(name: str) -> str:
    """A name as Prefect's artifact keys allow it: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
