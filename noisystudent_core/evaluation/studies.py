"""What a study found: variants over seeds, means with their errors, and whether a difference can be chance."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from scipy.special import stdtr

SIGNIFICANT = 0.05
COLUMNS = {
    "data": "unlabelled images",
    "variant": "variant",
    "seeds": "seeds",
    "top1": "top-1",
    "change": "vs. reference",
    "supervised_top1": "supervised top-1",
    "loss_labelled": "labelled loss",
    "loss_unlabelled": "unlabelled loss",
}


@dataclass(frozen=True)
class Outcome:
    """One run of a variant: its last student's numbers by name."""

    data: str
    variant: str
    seed: int
    numbers: Mapping[str, float]  # in percent; losses in nats


def summary(outcomes: Sequence[Outcome], reference: str) -> list[dict[str, Any]]:
    """A row per unlabelled set and variant: means over seeds, their standard errors, the change against `reference`.

    Changes are of the same seeds, and `p_value` is that of their two-sided t test; both are None of the reference
    itself and where there is none.
    """
    groups: dict[tuple[str, str], dict[int, Mapping[str, float]]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.data, outcome.variant), {})[outcome.seed] = outcome.numbers
    return [
        {"data": data, "variant": variant, "seeds": len(runs)}
        | _means(runs)
        | _against(groups.get((data, reference), {}) if variant != reference else {}, runs)
        for (data, variant), runs in groups.items()
    ]


def markdown(title: str, rows: Sequence[Mapping[str, Any]], reference: str) -> str:
    """The table as a Markdown page."""
    return f"# {title}\n\n{table(rows)}\n{_legend(reference)}\n"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table in Markdown, its columns aligned for a terminal; columns that nobody measured are left out."""
    shown = [name for name in COLUMNS if any(row.get(name) not in (None, "") for row in rows)]
    cells = [[COLUMNS[name] for name in shown], *([_cell(name, row) for name in shown] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    lines.insert(1, " | ".join("-" * width for width in widths))
    return "".join(f"| {line} |\n" for line in lines)


def _means(runs: Mapping[int, Mapping[str, float]]) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name in sorted(set.intersection(*(set(numbers) for numbers in runs.values()))):
        values = [numbers[name] for numbers in runs.values()]
        found |= {name: fmean(values), f"{name}_error": standard_error(values)}
    return found


def _against(
    reference: Mapping[int, Mapping[str, float]], runs: Mapping[int, Mapping[str, float]]
) -> dict[str, float | None]:
    changes = [runs[seed]["top1"] - reference[seed]["top1"] for seed in sorted(runs.keys() & reference.keys())]
    if not changes:
        return {"change": None, "change_error": None, "p_value": None}
    return {"change": fmean(changes), "change_error": standard_error(changes), "p_value": p_value(changes)}


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean; None of a single value."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def p_value(changes: Sequence[float]) -> float | None:
    """Of the hypothesis that there is no change, by Student's t test on differences of the same seeds."""
    error = standard_error(changes)
    if not error:
        return None
    return float(2 * stdtr(len(changes) - 1, -abs(fmean(changes)) / error))


def _legend(reference: str) -> str:
    text = "Means over seeds, last checkpoint, +- one standard error of the mean."
    if reference:
        text += (
            f' Changes are against "{reference}", seed by seed; * marks those that chance gives in less than '
            f"{SIGNIFICANT:.0%} of cases (two-sided t test)."
        )
    return f"{text} Losses are of the last training steps, without label smoothing taken out."


def _cell(name: str, row: Mapping[str, Any]) -> str:
    value, error = row.get(name), row.get(f"{name}_error")
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    text = f"{value:+.2f}" if name == "change" else f"{value:.3f}" if name.startswith("loss") else f"{value:.2f}"
    if error is not None:
        text += f" +- {error:.3f}" if name.startswith("loss") else f" +- {error:.2f}"
    p = row.get("p_value")
    return f"{text} *" if name == "change" and p is not None and p < SIGNIFICANT else text
