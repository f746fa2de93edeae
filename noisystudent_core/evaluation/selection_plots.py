"""Charts of a selection: confidences and classes of the pseudo-labelled images, before it and after."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from noisystudent_core.evaluation.charts import Chart, Panel, Series, by_name, shortened

MOST_NAMED_CLASSES = 40  # more are shown by rank
CONFIDENCE_BINS = 25
KINDS = (  # columns of a selection's table of classes
    ("predicted", "predicted", "all"),
    ("above_threshold", "above the threshold", "supervised"),
    ("selected", "selected", "student"),
    ("copies", "selected, with copies", "other"),
)


def confidences(before: NDArray, after: NDArray, copies: NDArray, threshold: float, caption: str) -> Chart | None:
    """Histograms of confidences: float [N] before, [M] after selection, and after it weighted with int copies [M]."""
    if not len(before) or not len(after):
        return None
    edges = np.linspace(0, 1, CONFIDENCE_BINS + 1)
    kinds: list[tuple[str, str, NDArray, NDArray | None]] = [
        ("all predicted", "all", before, None),
        ("selected", "student", after, None),
        ("selected, with copies", "other", after, copies),
    ]
    series = [
        Series(label=label, role=role, x=edges.tolist(), y=_shares(values, edges, weights), style="stairs")
        for label, role, values, weights in kinds
    ]
    medians = f"median {np.median(before):.2f} before, {np.median(after):.2f} after"
    return Chart(
        name="confidences",
        title="Confidence before and after selection",
        caption=f"Share of the images in each bin of the selector's confidence; dashed: the threshold. {caption}",
        alt=f"Histograms of the selector's confidence; {medians}, threshold {threshold:g}",
        panels=[Panel(series=series, x_label="confidence", y_label="images, %", x_limits=(0, 1), mark=threshold)],
    )


def class_counts(classes: Sequence[Mapping[str, int]], names: Sequence[str] | None) -> Chart | None:
    """Images of each class before and after selection: by name, or by rank where there are too many."""
    if not classes:
        return None
    few = len(classes) <= MOST_NAMED_CLASSES
    shown = list(classes) if few else sorted(classes, key=lambda row: -row["predicted"])
    named = [names[row["class"]] if names else str(row["class"]) for row in shown]
    spread = [f"{label} {min(row[k] for row in shown):,} to {max(row[k] for row in shown):,}" for k, label, _ in KINDS]
    return Chart(
        name="class-counts",
        title="Class counts before and after selection",
        caption="Pseudo-labelled images of each class" + ("." if few else ", classes by rank of their predictions."),
        alt=f"Images a class over {len(classes):,} classes: {', '.join(spread)}",
        panels=[_by_name(shown, named) if few else _by_rank(shown)],
        header=["class", *(label for _, label, _ in KINDS)] if few else (),
        numbers=[
            [name, *(f"{row[key]:,}" for key, _, _ in KINDS)] for name, row in zip(named, shown, strict=True) if few
        ],
    )


def _by_name(classes: Sequence[Mapping[str, int]], names: Sequence[str]) -> Panel:
    places = [-float(place) for place in range(len(classes))]
    series = [
        Series(label=label, role=role, x=[float(row[key]) for row in classes], y=places, style="points")
        for key, label, role in KINDS
    ]
    return by_name(series, [shortened(name) for name in names], "images")


def _by_rank(classes: Sequence[Mapping[str, int]]) -> Panel:
    ranks = [float(rank) for rank in range(1, len(classes) + 1)]
    series = [
        Series(label=label, role=role, x=ranks, y=[float(row[key]) for row in classes]) for key, label, role in KINDS
    ]
    return Panel(series=series, x_label="class, by rank", y_label="images", y_limits=(0, None))


def _shares(values: NDArray, edges: NDArray, weights: NDArray | None) -> list[float]:
    counts, _ = np.histogram(values, edges, weights=weights)
    return (100 * counts / counts.sum()).tolist()
