"""What a user sees in Prefect: progress bars, tables, and images and links that lead to MLflow."""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from threading import Lock
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
    """A stage's progress bar, in Prefect and as lines of the log; appears after a few seconds of its work."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._artifact: Any = None  # the artifact's UUID
        self._percent, self._shown = 0.0, time.monotonic()
        self._first: tuple[float, int] | None = None  # when the work was first heard of, and how much was done by then

    def listen(self, event: str, **fields: Any) -> None:
        """Take a stage's events: `progress` moves the bar, `message` goes to the log, `waiting` to both."""
        if event == "progress":
            self.move(fields["done"], fields["total"], fields["unit"])
        elif event == "message":
            get_run_logger().info("%s: %s", self._name, fields["text"])
        elif event == "waiting":
            get_run_logger().info("%s: %s", self._name, fields["text"])
            self._show(self._percent, f"{self._name}: {fields['text']}")

    def move(self, done: int, total: int, unit: str, beside: str = "") -> None:
        """Show how much is done, how fast it goes and how long the rest will take; `beside` is said with it."""
        now = time.monotonic()
        if self._first is None or done < self._first[1]:  # before, it waited for a slot, or had another try
            self._first = now, done
        started, before = self._first
        if now - started < FIRST_AFTER_S or now - self._shown < EVERY_S:
            return
        self._shown, rate = now, (done - before) / max(now - started, 1e-9)
        left = str(timedelta(seconds=round((total - done) / rate))) if rate else "unknown time"
        text = f"{done:,} of {total:,} {unit}{beside}, {rate:,.0f} a second, {left} left"
        get_run_logger().info("%s: %s", self._name, text)
        self._show(100 * done / max(total, 1), f"{self._name}: {text}")

    def finish(self) -> None:
        """Fill the bar, where there is one."""
        if self._artifact is not None:
            self._show(100.0, f"{self._name}: done")

    def _show(self, percent: float, text: str) -> None:
        self._percent = percent
        if self._artifact is None:
            key = f"progress-{artifact_key(self._name)}"
            self._artifact = create_progress_artifact(percent, key=key, description=text)
        else:
            update_progress_artifact(self._artifact, progress=percent, description=text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()


class PassProgress:
    """One bar for all groups of a pass over image parts, which report from threads of this process."""

    def __init__(self, name: str) -> None:
        self._bar, self._lock = Progress(name), Lock()
        self._expected = Counter[str]()
        self._done = Counter[str]()

    def expect(self, **counts: int) -> None:
        """Say how many `parts` and `images` there are to do; where nobody did, the bar knows what was done alone."""
        self._expected.update(counts)

    @contextmanager
    def group(self) -> Iterator[Callable[..., None]]:
        """Take the events of one try of one group while the block lasts."""
        seen = Counter[str]()

        def listen(event: str, **fields: Any) -> None:
            if event != "progress":
                return self._bar.listen(event, **fields)
            now = Counter(images=fields["done"], parts=fields["parts"])
            with self._lock:
                self._done.update(now - seen)
                seen.update(now - seen)
                self._show()
            return None

        yield listen

    def _show(self) -> None:
        total = {kind: max(self._expected[kind], self._done[kind]) for kind in ("images", "parts")}
        beside = f", {self._done['parts']:,} of {total['parts']:,} parts"
        self._bar.move(self._done["images"], total["images"], "images", beside)
        if self._done["parts"] == total["parts"]:
            self._bar.finish()


_passes: dict[tuple[str, str], PassProgress] = {}  # by flow run and name


def pass_progress(run_id: str, name: str) -> PassProgress:
    """The bar of a run's pass, made when first asked for."""
    return _passes.setdefault((run_id, name), PassProgress(name))


def show_table(title: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
    """A table in the UI's artifacts, its fractions to four places."""
    shown = [
        {column: round(cell, 4) if isinstance(cell, float) else cell for column, cell in row.items()} for row in rows
    ]
    create_table_artifact(shown, key=artifact_key(title), description=description)


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
