"""Every number reported while a model is fitted."""

from dataclasses import dataclass, field


@dataclass
class History:
    """Every number reported while fitting: (step, metric, value)."""

    rows: list[tuple[int, str, float]] = field(default_factory=list)

    def add(self, step: int, values: dict[str, float]) -> None:
        """Append the values of one step."""
        self.rows += [(step, name, value) for name, value in values.items()]

    def names(self) -> list[str]:
        """The metrics reported at least once, in name order."""
        return sorted({name for _, name, _ in self.rows})

    def last(self, metric: str) -> float | None:
        """The metric's most recent value."""
        return next((value for _, name, value in reversed(self.rows) if name == metric), None)
