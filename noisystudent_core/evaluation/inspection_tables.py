"""An inspection as tables and charts: the same on a page and in Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noisystudent_core.evaluation import inspection as found
from noisystudent_core.evaluation.charts import HEIGHT, WIDTH, Chart, Panel, Series
from noisystudent_core.evaluation.inspection import Inspection, Summary

MOST_CLASSES = 40  # more: the largest and the smallest ones alone
BINS_PER_OCTAVE = 4  # of a side's length
ROLES: Mapping[str, str] = {"labelled": "student", "unlabelled": "all", "validation": "supervised", "test": "teacher"}
MODES = {  # Pillow's words where they are not everybody's
    "1": "black and white",
    "L": "grey",
    "LA": "grey with transparency",
    "I;16": "grey, 16 bits",
    "P": "palette",
    "RGBA": "RGB with transparency",
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells of text below a header; the first one of a row says what it is of."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(inspection: Inspection) -> list[Table]:
    """Whichever have something to say."""
    made = [_sets(inspection), _shared(inspection), _classes(inspection), _damaged(inspection)]
    return [table for table in made if table.rows]


def charts(inspection: Inspection) -> list[Chart]:
    """Class balance and sizes; what is the same for all images has no chart."""
    made = [_balance(inspection), _sizes(inspection)]
    return [chart for chart in made if chart is not None]


def markdown(inspection: Inspection) -> str:
    """The whole in Markdown, its columns aligned for a terminal."""
    lines = ["# What is in the images", ""]
    lines += [f"- **{finding.level}**: {finding.text}" for finding in inspection.findings] or ["Nothing stands out."]
    for table in tables(inspection):
        lines += ["", f"## {table.title}", "", *_lines(table)]
    return "\n".join(lines) + "\n"


def _lines(table: Table) -> list[str]:
    cells = [[text.replace("|", "\\|") for text in row] for row in (table.header, *table.rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        " | ".join([row[0].ljust(widths[0]), *(text.rjust(w) for text, w in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    ]
    lines.insert(1, " | ".join(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]))
    return [f"| {line} |" for line in lines]


def _sets(inspection: Inspection) -> Table:
    """A row per figure, a column per set."""
    sets = inspection.sets
    reasons = sorted({reason for summary in sets for reason in summary.reasons})
    kinds = sum((summary.kinds for summary in sets), sets[0].kinds.__class__())
    rows = {"images": [f"{summary.num_images:,}" for summary in sets]}
    rows |= {f"left out: {reason}": [_count(summary.reasons[reason]) for summary in sets] for reason in reasons}
    rows |= {
        "with a label": [_count(summary.class_counts.total()) for summary in sets],
        "classes": [_count(len(summary.class_counts)) for summary in sets],
        "largest class": [_extreme(inspection, summary, 0) for summary in sets],
        "smallest class": [_extreme(inspection, summary, -1) for summary in sets],
        "height × width, px": [_size(summary) for summary in sets],
        "most frequent size": [_frequent(summary) for summary in sets],
    }
    rows |= {_kind(*kind): [_count(summary.kinds[kind]) for summary in sets] for kind, _ in kinds.most_common()}
    rows |= {"bytes an image": [f"{summary.num_bytes / max(summary.num_images, 1):,.0f}" for summary in sets]}
    rows |= {"repeated, equal bytes": [_count(inspection.repeated[summary.name]) for summary in sets]}
    if inspection.config.near_radius is not None:
        alike = [inspection.look_alikes[summary.name] for summary in sets]
        rows |= {"much like another one": ["not looked for" if count is None else _count(count) for count in alike]}
    kept = [[name, *cells] for name, cells in rows.items() if any(cell != "–" for cell in cells)]
    return Table(title="Sets", header=["", *(summary.name for summary in sets)], rows=kept)


def _shared(inspection: Inspection) -> Table:
    alike = {frozenset((near.evaluation, near.training)): near.num_images for near in inspection.near}
    shared = {frozenset((pair.first, pair.second)): pair for pair in inspection.shared}
    rows = []
    for first, second in combinations([summary.name for summary in inspection.sets], 2):
        pair, near = shared.get(frozenset((first, second))), alike.get(frozenset((first, second)), 0)
        if pair is not None or near:
            counts = [pair.num_images, pair.num_other_label] if pair is not None else [0, 0]
            looks = "cannot be told" if near is None else _count(near)
            rows.append([f"{first}, {second}", *map(_count, counts), looks])
    header = ["sets", "equal bytes", "of these, another label", "much alike"]
    return Table(title="Images in two sets", header=header, rows=rows)


def _classes(inspection: Inspection) -> Table:
    labelled = [summary for summary in inspection.sets if summary.class_counts]
    numbers = sorted({number for summary in labelled for number in summary.class_counts})
    title = "Images of each class"
    if len(numbers) > MOST_CLASSES:
        numbers = sorted(numbers, key=lambda number: (-labelled[0].class_counts[number], number))
        title += f": the {MOST_CLASSES // 2} largest and smallest of {len(numbers):,}"
        numbers = [*numbers[: MOST_CLASSES // 2], *numbers[-MOST_CLASSES // 2 :]]
    rows = [
        [inspection.class_names[number], *(f"{summary.class_counts[number]:,}" for summary in labelled)]
        for number in numbers
    ]
    return Table(title=title, header=["class", *(summary.name for summary in labelled)], rows=rows)


def _damaged(inspection: Inspection) -> Table:
    rows = [
        [source, summary.name, reason]
        for summary in inspection.sets
        for source, reason in summary.damaged[: found.MOST_DAMAGED]
    ]
    return Table(title="Images that cannot be used", header=["image", "set", "reason"], rows=rows)


def _balance(inspection: Inspection) -> Chart | None:
    """Each class's share of its set: by name, or by rank where there are too many."""
    labelled = [summary for summary in inspection.sets if summary.class_counts]
    numbers = sorted({number for summary in labelled for number in summary.class_counts})
    if len(numbers) < 2:
        return None
    few = len(numbers) <= MOST_CLASSES
    spread = [
        f"{summary.name} {min(c.values()):,} to {max(c.values()):,}"
        for summary in labelled
        for c in [summary.class_counts]
    ]
    return Chart(
        name="classes",
        title="Class balance",
        caption="Share of each class of its set's images" + ("." if few else ", classes of each set by rank."),
        alt=f"Images a class over {len(numbers):,} classes: {', '.join(spread)}",
        panels=[_by_name(labelled, numbers, inspection.class_names) if few else _by_rank(labelled)],
    )


def _by_name(sets: Sequence[Summary], numbers: Sequence[int], names: Mapping[int, str]) -> Panel:
    places = [-float(place) for place in range(len(numbers))]
    shares = [[100 * s.class_counts[number] / s.class_counts.total() for number in numbers] for s in sets]
    return Panel(
        series=[
            Series(label=s.name, role=ROLES.get(s.name, "other"), x=share, y=places, style="points")
            for s, share in zip(sets, shares, strict=True)
        ],
        x_label="images, %",
        y_ticks={place: _short(names[number]) for place, number in zip(places, numbers, strict=True)},
        x_limits=(0, None),
        size=(WIDTH, max(HEIGHT, 0.6 + 0.24 * len(numbers))),
    )


def _by_rank(sets: Sequence[Summary]) -> Panel:
    series = []
    for summary in sets:
        counts = sorted(summary.class_counts.values(), reverse=True)
        shares = [100 * count / summary.class_counts.total() for count in counts]
        ranks = [float(rank) for rank in range(1, len(counts) + 1)]
        series.append(Series(label=summary.name, role=ROLES.get(summary.name, "other"), x=ranks, y=shares))
    return Panel(series=series, x_label="class, by rank", y_label="images, %", y_limits=(0, None))


def _sizes(inspection: Inspection) -> Chart | None:
    """Histograms of height and width, on a logarithmic axis."""
    sets = [summary for summary in inspection.sets if summary.heights]
    every = [side for summary in sets for side in (*summary.heights, *summary.widths)]
    if not every or len(set(every)) == 1:
        return None
    first, last = int(np.floor(np.log2(min(every)))), int(np.floor(np.log2(max(every)))) + 1
    edges = np.linspace(first, last, BINS_PER_OCTAVE * (last - first) + 1)
    panels = []
    for title, counts in (("height", [s.heights for s in sets]), ("width", [s.widths for s in sets])):
        series = [
            Series(
                label=s.name,
                role=ROLES.get(s.name, "other"),
                x=edges.tolist(),
                y=_shares(side, edges),
                style="stairs",
            )
            for s, side in zip(sets, counts, strict=True)
        ]
        ticks = {float(octave): f"{2**octave:,}" for octave in range(first, last + 1)}
        panels.append(Panel(series=series, title=title, x_label="px", y_label="images, %", x_ticks=ticks))
    words = [f"{summary.name} {_size(summary)}" for summary in sets]
    return Chart(
        name="sizes",
        title="Height and width",
        caption="Share of the images in each bin, a quarter of an octave wide.",
        alt=f"Histograms of height and width in pixels: {'; '.join(words)}",
        panels=panels,
    )


def _shares(counts: Mapping[int, int], edges: NDArray[Any]) -> list[float]:
    values, numbers = found.arrays(counts)
    binned, _ = np.histogram(np.log2(values), edges, weights=numbers)
    return (100 * binned / numbers.sum()).tolist()


def _size(summary: Summary) -> str:
    """One size, or from the least to the greatest."""
    sides = [found.spread(counts) for counts in (summary.heights, summary.widths)]
    return " × ".join(_from_to(side) for side in sides if side) or "–"


def _from_to(side: Mapping[str, int]) -> str:
    least, greatest = side["least"], side["greatest"]
    return f"{least:,}" if least == greatest else f"{least:,} to {greatest:,}"


def _frequent(summary: Summary) -> str:
    if summary.sizes is None:
        return f"over {found.MOST_SIZES:,} sizes"
    if len(summary.sizes) < 2:
        return "–"
    ((height, width), count), *_ = found.in_order(summary.sizes)
    return f"{height:,} × {width:,} ({count / summary.num_usable:.0%})"


def _extreme(inspection: Inspection, summary: Summary, place: int) -> str:
    if not summary.class_counts:
        return "–"
    number, count = sorted(summary.class_counts.items(), key=lambda item: (-item[1], item[0]))[place]
    return f"{_short(inspection.class_names[number])}: {count:,}"


def _kind(form: str, mode: str) -> str:
    return f"{form}, {MODES.get(mode, mode)}"


def _count(count: int) -> str:
    return f"{count:,}" if count else "–"


def _short(name: str) -> str:
    name = " ".join(name.split())
    return name if len(name) <= 18 else name[:17] + "…"
