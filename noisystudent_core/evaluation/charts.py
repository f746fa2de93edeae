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
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image

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
MAX_HEAD = 2.0  # inches of a PNG's title and legend, at most
DPI = 130  # of PNGs
PAD = 0.05 * DPI  # pixels around a panel
MAX_TICKS = 12
MAX_NAME = 18  # letters of a name beside an axis
Limits = tuple[float | None, float | None]


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
    x_limits: Limits = (None, None)
    y_limits: Limits = (None, None)
    mark: float | None = None  # a vertical line
    diagonal: bool = False
    cells: Sequence[Sequence[int]] = ()  # counts at (column, row), each shaded by its share of its row
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


class Drawing:
    """A chart drawn once, for a page and for a server that shows PNGs."""

    def __init__(self, chart: Chart) -> None:
        self.chart = chart
        with mpl.rc_context(LOOK):
            self._figures = [_figure(panel) for panel in chart.panels]

    @property
    def svgs(self) -> list[str]:
        """Each panel as an SVG element that takes its width and its colours from the page around it."""
        with mpl.rc_context(LOOK):
            return [_themed(_svg(figure), f"{self.chart.name}-{i}-") for i, figure in enumerate(self._figures)]

    @property
    def png(self) -> bytes:
        """All panels on one white sheet, with title and legend."""
        num_columns = min(3, len(self._figures))
        with mpl.rc_context(LOOK):
            panels = [_raster(figure) for figure in self._figures]
            width, height = panels[0].size
            head = _head(self.chart, max(width * num_columns, WIDTH * DPI) / DPI)
        num_rows = -(-len(panels) // num_columns)
        sheet = Image.new("RGB", (head.width, head.height + num_rows * height), PAPER)
        sheet.paste(head)
        for number, panel in enumerate(panels):
            row, column = divmod(number, num_columns)
            sheet.paste(panel, (column * width, head.height + row * height))
        file = io.BytesIO()
        sheet.save(file, "PNG")
        return file.getvalue()


def _figure(panel: Panel) -> Figure:
    """One panel, its axes as large as its labels leave room for."""
    figure = Figure(figsize=panel.size, dpi=DPI, facecolor=PAPER)
    axes = figure.add_axes((0.15, 0.2, 0.8, 0.7), facecolor="none")
    _draw(axes, panel)
    renderer = FigureCanvasAgg(figure).get_renderer()
    for _ in range(2):  # with another size come other ticks
        _fit(axes, figure.bbox.width, figure.bbox.height, renderer)
    return figure


def _fit(axes: Axes, width: float, height: float, renderer: Any) -> None:
    """Make the axes as large as a figure of this size, in pixels, has room for with their labels."""
    found = axes.get_tightbbox(renderer, for_layout_only=True)
    assert found is not None
    left, bottom, right, top = axes.get_position().extents
    left, right = left + (PAD - found.x0) / width, right + (width - PAD - found.x1) / width
    bottom, top = bottom + (PAD - found.y0) / height, top + (height - PAD - found.y1) / height
    axes.set_position((left, bottom, right - left, top - bottom))


def _svg(figure: Figure) -> str:
    file = io.BytesIO()
    figure.patch.set_visible(False)
    FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    return file.getvalue().decode()


def _raster(figure: Figure) -> Image.Image:
    figure.dpi = DPI  # an SVG's is another
    figure.patch.set_visible(True)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _head(chart: Chart, width: float) -> Image.Image:
    """Title and legend, of so many inches."""
    figure = Figure(figsize=(width, MAX_HEAD), dpi=DPI, facecolor=PAPER)
    legend = figure.legend(
        [_handle(role) for role in chart.legend().values()],
        [*chart.legend()],
        title=chart.title,
        title_fontproperties={"weight": "bold", "size": 12},
        alignment="left",
        loc="upper left",
        ncols=4 if len(chart.panels) > 1 else 2,
        frameon=False,
    )
    image = _raster(figure)
    return image.crop((0, 0, image.width, round(MAX_HEAD * DPI - legend.get_window_extent().y0)))


def _draw(axes: Axes, panel: Panel) -> None:
    if not panel.cells:
        axes.grid(visible=True, axis="both" if panel.y_ticks else "y", linewidth=0.8)
    axes.set_axisbelow(True)
    if panel.diagonal:
        axes.plot([0, 100], [0, 100], color=GREY, linewidth=1, dashes=(4, 3))
    if panel.mark is not None:
        axes.axvline(panel.mark, color=GREY, linewidth=1, dashes=(4, 3))
    for series in panel.series:
        _draw_series(axes, series)
    for row, counts in enumerate(panel.cells):
        _draw_cells(axes, row, counts)
    axes.set_title(panel.title, loc="left", fontsize=10, color=INK)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.set_xlim(*panel.x_limits)
    if (
        panel.series and (lowest := panel.y_limits[0]) is not None
    ):  # so that there is a margin above what is all the same
        axes.update_datalim([(panel.series[0].x[0], lowest)])
        axes.autoscale_view(scalex=False)
    axes.set_ylim(*panel.y_limits)
    if panel.x_ticks is not None:
        axes.set_xticks(*_ticks(panel.x_ticks))
        axes.tick_params("x", rotation=90 if panel.cells and max(map(len, panel.x_ticks.values())) > 3 else 0)
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


def _draw_cells(axes: Axes, row: int, counts: Sequence[int]) -> None:
    for column, count in enumerate(counts):
        if count:
            share = {"color": ROLES["student"][0], "alpha": 0.05 + 0.5 * count / sum(counts), "linewidth": 0}
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **share))
            axes.text(column, row, f"{count:,}", ha="center", va="center", fontsize=9)


def _ticks(ticks: Mapping[float, str]) -> tuple[list[float], list[str]]:
    """Places and names, of very many some."""
    step = -(-len(ticks) // MAX_TICKS)
    return [*ticks][::step], [*ticks.values()][::step]


def _handle(role: str) -> Any:
    colour, marker, dashes = ROLES[role]
    face = "none" if role == "other" else colour
    return Line2D([], [], color=colour, marker=marker, markerfacecolor=face, linestyle=dashes, linewidth=2)


def by_name(series: Sequence[Series], names: Sequence[str], x_label: str, x_limits: Limits = (0, None)) -> Panel:
    """Points along x, a line of them for each name, the first on top: the y of series are 0, -1, ..."""
    return Panel(
        series=series,
        x_label=x_label,
        y_ticks={-float(place): name for place, name in enumerate(names)},
        x_limits=x_limits,
        size=(WIDTH, max(HEIGHT, 0.6 + 0.24 * len(names))),
    )


def shortened(name: str, length: int = MAX_NAME) -> str:
    """As much of a name as fits beside an axis."""
    name = " ".join(name.split())
    return name if len(name) <= length else name[: length - 1] + "…"


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
