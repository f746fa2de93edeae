"""Charts of numbers: as SVG for a page, whose colours its style sheet gives, and as PNG where a page is not shown.

Colours are Okabe and Ito's, told apart by colour-blind readers; markers and dashes say the same once more.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

INK, GREY, LINE, PAPER = "#1f2328", "#59636e", "#d1d9e0", "#ffffff"
ROLES: Mapping[str, tuple[str, str, Any]] = MappingProxyType(  # colour, marker, dashes
    {
        "teacher": ("#d55e00", "o", "-"),
        "supervised": ("#009e73", "^", "--"),
        "student": ("#0072b2", "s", "-"),
        "other": ("#cc79a7", "D", "-."),
        "all": (GREY, "o", "-"),
    }
)
VARIABLES = {  # of a page's style sheet, by the colour that they stand for
    INK: "--ink",
    GREY: "--grey",
    LINE: "--line",
    PAPER: "--paper",
    **{colour: f"--{role}" for role, (colour, _, _) in ROLES.items() if role != "all"},
}
LOOK: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,  # a class may be called "$"
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "grid.color": LINE,
    "svg.fonttype": "none",
    "svg.hashsalt": "noisy-student",  # equal charts, equal bytes
}
WIDTH, HEIGHT = 4.6, 3.0  # inches of a panel of usual size
TITLE_SPACE = 0.75  # inches above a PNG's panels, for title and legend
DPI = 130  # of PNGs
MAX_TICKS = 12


@dataclass(frozen=True, kw_only=True)
class Series:
    """Numbers of one role; of "stairs" `x` has the edges of the bins, one more than `y`."""

    label: str
    role: str
    x: Sequence[float]
    y: Sequence[float]
    style: Literal["line", "points", "stairs"] = "line"
    errors: Sequence[float] | None = None  # one standard error, either way


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One pair of axes; ticks map places to their names."""

    series: Sequence[Series]
    title: str = ""
    x_label: str = ""
    y_label: str = ""
    x_ticks: Mapping[float, str] | None = None
    y_ticks: Mapping[float, str] | None = None
    x_limits: tuple[float | None, float | None] = (None, None)
    y_limits: tuple[float | None, float | None] = (None, None)
    mark: float | None = None  # a vertical line
    diagonal: bool = False
    size: tuple[float, float] = (WIDTH, HEIGHT)  # inches


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A figure of the report: panels of one legend, what they say in words, and their numbers as a table."""

    name: str
    title: str
    caption: str
    alt: str
    panels: Sequence[Panel]
    header: Sequence[str] = ()
    numbers: Sequence[Sequence[str]] = field(default=())

    def legend(self) -> dict[str, str]:
        """Role of every label, in order."""
        return {series.label: series.role for panel in self.panels for series in panel.series}


def svgs(chart: Chart) -> list[str]:
    """Each panel as an SVG element that takes its width and its colours from the page around it."""
    found = []
    for number, panel in enumerate(chart.panels):
        file = io.BytesIO()
        with mpl.rc_context(LOOK):
            figure = Figure(figsize=panel.size, layout="constrained")
            FigureCanvasSVG(figure)
            _draw(figure.subplots(), panel)
            figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        found.append(_themed(file.getvalue().decode(), f"{chart.name}-{number}-"))
    return found


def png(chart: Chart) -> bytes:
    """All panels on one white sheet, with title and legend."""
    num_columns = min(3, len(chart.panels))
    num_rows = -(-len(chart.panels) // num_columns)
    width, height = chart.panels[0].size
    with mpl.rc_context(LOOK):
        size = max(width * num_columns, WIDTH), height * num_rows + TITLE_SPACE
        figure = Figure(figsize=size, dpi=DPI, layout="constrained", facecolor=PAPER)
        canvas = FigureCanvasAgg(figure)
        cells = figure.subplots(num_rows, num_columns, squeeze=False).flat
        for cell, panel in zip(cells, chart.panels, strict=False):
            _draw(cell, panel)
        for cell in cells:  # those that are left
            cell.set_axis_off()
        handles = dict(zip(chart.legend(), map(_handle, chart.legend().values()), strict=True))
        figure.legend(
            handles.values(),
            handles.keys(),
            title=chart.title,
            title_fontproperties={"weight": "bold", "size": 12},
            alignment="left",
            loc="outside upper left",
            ncols=4 if num_columns > 1 else 2,
            frameon=False,
        )
        file = io.BytesIO()
        canvas.print_png(file)
    return file.getvalue()


def _draw(axes: Axes, panel: Panel) -> None:
    axes.grid(visible=True, axis="both" if panel.y_ticks else "y", linewidth=0.8)
    axes.set_axisbelow(True)
    if panel.diagonal:
        axes.plot([0, 100], [0, 100], color=GREY, linewidth=1, dashes=(4, 3))
    if panel.mark is not None:
        axes.axvline(panel.mark, color=GREY, linewidth=1, dashes=(4, 3))
    for series in panel.series:
        _draw_series(axes, series)
    axes.set_title(panel.title, loc="left", fontsize=10, color=INK)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.set_xlim(*panel.x_limits)
    axes.set_ylim(*panel.y_limits)
    if panel.x_ticks is not None:
        axes.set_xticks(*_ticks(panel.x_ticks))
    if panel.y_ticks is not None:
        axes.set_yticks([*panel.y_ticks], [*panel.y_ticks.values()])


def _draw_series(axes: Axes, series: Series) -> None:
    colour, marker, dashes = ROLES[series.role]
    if series.style == "stairs":
        axes.stairs(series.y, series.x, color=colour, linewidth=2, linestyle=dashes)
        if series.role == "all":
            axes.stairs(series.y, series.x, color=colour, fill=True, alpha=0.2)
        return
    many = len(series.x) > 50
    look: dict[str, Any] = {
        "color": colour,
        "marker": "" if many else marker,
        "markersize": 6.5,
        "markerfacecolor": "none" if series.role == "other" else colour,  # does not hide what is behind it
        "markeredgecolor": colour if series.role == "other" else PAPER,
        "markeredgewidth": 1.5 if series.role == "other" else 0.8,
        "linestyle": "" if series.style == "points" else dashes,
        "linewidth": 2,
    }
    if series.errors is None:
        axes.plot(series.x, series.y, **look)
    else:
        axes.errorbar(series.x, series.y, series.errors, capsize=3, elinewidth=1.2, **look)


def _ticks(ticks: Mapping[float, str]) -> tuple[list[float], list[str]]:
    """Places and names, of very many some."""
    step = -(-len(ticks) // MAX_TICKS)
    return [*ticks][::step], [*ticks.values()][::step]


def _handle(role: str) -> Any:
    colour, marker, dashes = ROLES[role]
    face = "none" if role == "other" else colour
    return Line2D([], [], color=colour, marker=marker, markerfacecolor=face, linestyle=dashes, linewidth=2)


def _themed(svg: str, prefix: str) -> str:
    """The `svg` element alone, without size and names of its own: ids are made unique, colours become variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'\bid="|(?<=href="#)|(?<=url\(#)', lambda found: found.group() + prefix, svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 aria-hidden="true"', svg, count=1)
    svg = re.sub(r"(font: [\d.]+px )[^;\"]*", r"\1system-ui, sans-serif", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg
