"""The result of a run: a table with a row per iteration, the gain of the method apart from the gain of size."""

from collections.abc import Mapping, Sequence
from typing import Any

from noisystudent_core.config.run import NoisyStudentConfig
from noisystudent_core.storage.manifest import Artifact

Row = dict[str, Any]

COLUMNS = {
    "iteration": "iteration",
    "model": "model",
    "parameters": "parameters",
    "unlabelled_ratio": "ratio",
    "validation_top1": "validation top-1",
    "top1": "top-1",
    "top5": "top-5",
    "supervised_top1": "supervised top-1",
    "change_teacher": "vs. teacher",
    "change_supervised": "vs. supervised",
}


def iterations(config: NoisyStudentConfig, models: Sequence[Mapping[str, str | None]]) -> list[Row]:
    """Rows of the table, the teacher's first: accuracies in percent, changes in points, None for what does not apply.

    `models[i]` holds artifact URLs of iteration i: "checkpoint", its evaluations "validation" and "test", and
    "supervised", the evaluation of the same net fitted on the labelled images alone. top1 is on the test images, or on
    the validation images where the run has no test set.
    """
    rows: list[Row] = []
    for iteration, model in enumerate(models):
        validation = _metrics(model["validation"])
        reported = _metrics(model["test"]) or validation
        supervised = _metrics(model["supervised"]).get("top1")
        checkpoint = Artifact.open(str(model["checkpoint"])).manifest
        rows.append(
            {
                "iteration": iteration,
                "model": checkpoint.config["model"]["name"],
                "parameters": checkpoint.facts["num_parameters"],
                "unlabelled_ratio": (checkpoint.config.get("pseudo_labels") or {}).get("unlabelled_ratio"),
                "validation_top1": validation["top1"],
                "top1": reported["top1"],
                "top5": reported.get("top5"),
                "supervised_top1": supervised,
                "change_teacher": _change(reported["top1"], rows[-1]["top1"] if rows else None),
                "change_supervised": _change(reported["top1"], supervised),
                "checkpoint": f"{checkpoint.kind}/{checkpoint.key}",
            }
        )
    return rows


def metrics(row: Row) -> dict[str, float]:
    """A row's numbers under the metric keys that every iteration shares."""
    keys = {
        "top1": "eval/top1",
        "top5": "eval/top5",
        "supervised_top1": "eval/supervised_top1",
        "validation_top1": "validation/top1",
    }
    return {key: row[column] for column, key in keys.items() if row[column] is not None}


def markdown(config: NoisyStudentConfig, rows: Sequence[Row]) -> str:
    """The table as a Markdown page, with what a reader must know to trust it."""
    gain = f"The last student is {rows[-1]['top1'] - rows[0]['top1']:+.2f} points from the first teacher."
    return f"# {config.name}, seed {config.seed}\n\n{table(rows)}\n{gain} {_origin(config)}\n"


def table(rows: Sequence[Row]) -> str:
    """The table in Markdown, its columns aligned for a terminal."""
    cells = [list(COLUMNS.values()), *([_cell(name, row[name]) for name in COLUMNS] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in cells]
    lines.insert(1, ["-" * width for width in widths])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _origin(config: NoisyStudentConfig) -> str:
    if config.sources.test is None:
        return "There is no test set: top-1 is on the validation images, on which choices may have been made."
    share = "a source of its own" if config.sources.validation else "a share of the labelled images"
    return (
        "Top-1 and top-5 are on the test images, read once per model, last checkpoint; "
        f"choices belong on the validation images ({share})."
    )


def _metrics(url: str | None) -> dict[str, float]:
    return Artifact.open(url).manifest.facts["metrics"] if url else {}


def _change(value: float, reference: float | None) -> float | None:
    return None if reference is None else round(value - reference, 4)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "parameters":
        return f"{value:,}"
    if name.startswith("change"):
        return f"{value:+.2f}"
    return f"{value:.2f}" if isinstance(value, float) and name != "unlabelled_ratio" else str(value)
