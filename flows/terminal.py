"""What a stage says while it works, for whoever waits for it: one bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from noisystudent_core.events import Events

EVERY_S = 3.0  # between two lines of a log


@contextmanager
def followed(name: str, console: Console | None = None) -> Iterator[Events]:
    """Show the events of a stage called `name` on standard error, or `console`, while the block lasts."""
    console = console or Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[unit]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        yield _Bar(bar, name)


class _Bar:
    """The bar of a terminal, which appears with the first progress and goes with the stage."""

    def __init__(self, bar: Progress, name: str) -> None:
        self._bar, self._name = bar, name
        self._tasks: dict[str, Any] = {}  # by unit: a stage may count files first, then images

    def __call__(self, event: str, **fields: Any) -> None:
        if event in ("message", "waiting"):
            self._bar.console.print(fields["text"])
        elif event == "progress":
            unit = fields["unit"]
            if unit not in self._tasks:
                self._tasks[unit] = self._bar.add_task(self._name, unit=unit)
            self._bar.update(self._tasks[unit], completed=fields["done"], total=fields["total"])


class _Lines:
    """Lines for a log, not more than one in a few seconds but for the last."""

    def __init__(self, console: Console) -> None:
        self._console, self._said = console, 0.0

    def __call__(self, event: str, **fields: Any) -> None:
        if event in ("message", "waiting"):
            self._console.print(fields["text"])
        elif event == "progress" and (fields["done"] == fields["total"] or time.monotonic() - self._said >= EVERY_S):
            self._said = time.monotonic()
            self._console.print(f"{fields['done']:,} of {fields['total']:,} {fields['unit']}")
