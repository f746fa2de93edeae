"""What a stage says while it works: the core reports through a callable and knows nothing of who listens."""

from typing import Any, Protocol


class Events(Protocol):
    """Receives what a stage says while it runs.

    `progress` (done, total, unit, maybe parts), `part` (name, failures: which one is next, and the folder of notes on
    those that failed), `metrics` (step, values), `message` (text), `waiting` (text: for whom), and `figure` (name, png:
    a PNG in base64, less than 1 MB). A later figure of a name takes the place of the earlier one.
    """

    def __call__(self, event: str, **fields: Any) -> None: ...


def silent(event: str, **fields: Any) -> None:
    """Listen to nothing."""
