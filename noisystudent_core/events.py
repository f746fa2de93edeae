"""What a stage says while it works: the core reports through a callable and knows nothing of who listens."""

from typing import Any, Protocol


class Events(Protocol):
    """Receives `progress` (done, total, unit), `metrics` (step, values) and `message` (text) while a stage runs."""

    def __call__(self, event: str, **fields: Any) -> None: ...


def silent(event: str, **fields: Any) -> None:
    """Listen to nothing."""
