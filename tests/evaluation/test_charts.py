"""Charts: their SVG belongs into any page, their colours into its style sheet, their PNG to a server."""

import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from noisystudent_core.evaluation import charts, page
from noisystudent_core.evaluation.charts import Chart, Drawing, Panel, Series


def chart(num_panels: int = 1, labels: Sequence[str] = ("first teacher", "last student"), **panel) -> Chart:
    roles = ["teacher", "student"]
    series = [
        Series(label=label, role=role, x=[1, 2, 3], y=[10, 20 + place, 5])
        for place, (label, role) in enumerate(zip(labels, roles, strict=True))
    ]
    panels = [Panel(series=series, title=f"panel {number}", **panel) for number in range(num_panels)]
    return Chart(name="some", title="Some chart", caption="A caption.", alt="Two lines", panels=panels)


def test_an_svg_has_no_size_no_colour_and_no_name_of_its_own() -> None:
    (svg,) = Drawing(chart()).svgs
    tree = ElementTree.fromstring(svg)
    assert not {"width", "height"} & tree.attrib.keys()
    assert set(re.findall(r"#[0-9a-f]{6}", svg)) == set()
    assert {"var(--teacher)", "var(--student)", "var(--grey)"} <= set(re.findall(r"var\(--\w+\)", svg))
    ids = [element.attrib["id"] for element in tree.iter() if "id" in element.attrib]
    assert len(ids) == len(set(ids))
    assert all(name.startswith("some-0-") for name in ids)


def test_references_within_an_svg_lead_to_its_own_names() -> None:
    for number, svg in enumerate(Drawing(chart(num_panels=2)).svgs):
        names = set(re.findall(r'\bid="([^"]*)"', svg))
        used = set(re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', svg))
        assert used
        assert {left or right for left, right in used} <= names
        assert all(name.startswith(f"some-{number}-") for name in names)


def test_colours_of_the_page_are_defined_for_light_and_dark() -> None:
    style = (Path(page.__file__).parent / "page.css").read_text()
    light, dark = style.split("prefers-color-scheme: dark")
    assert all(f"{variable}: #" in light for variable in charts.VARIABLES.values())
    assert all(f"{variable}: #" in dark for variable in ("--ink", "--paper", "--student", "--teacher"))


def test_equal_charts_are_equal_bytes_in_either_order() -> None:
    one, other = Drawing(chart()), Drawing(chart())
    svgs, png = one.svgs, one.png
    assert (png, svgs) == (other.png, other.svgs)


def test_labels_have_room_within_the_picture() -> None:
    wide = chart(y_ticks={10.0: "a name of eighteen"}, x_label="x", y_label="y", size=(3.0, 2.0))
    for pixels in (Image.open(io.BytesIO(Drawing(each).png)).convert("L") for each in (wide, chart())):
        drawn = np.array(pixels) < 200
        assert not drawn[-3:].any() and not drawn[:, :3].any() and not drawn[:, -3:].any()


def test_what_is_all_the_same_is_not_at_the_edge() -> None:
    flat = [Series(label="a", role="student", x=[1, 2, 3], y=[95, 95, 95])]
    panel = Panel(series=flat, y_limits=(0, None))
    png = Drawing(Chart(name="a", title="", caption="", alt="", panels=[panel])).png
    blue = (np.array(Image.open(io.BytesIO(png))) == (0, 114, 178)).all(2)
    rows = np.flatnonzero(blue.sum(1) > 200)  # of the line, not of the legend
    markers = np.flatnonzero(blue[rows[0] - 12 : rows[-1] + 13].any(1))
    assert markers[-1] - markers[0] >= 8  # whole: 6.5 points at 130 pixels an inch, but for its rim


def test_a_png_has_every_panel_and_each_role_s_colour() -> None:
    one, many = (Image.open(io.BytesIO(Drawing(chart(number)).png)) for number in (1, 5))
    assert many.height > 1.5 * one.height
    pixels = np.array(one.convert("RGB")).reshape(-1, 3)
    for role in ("teacher", "student"):
        colour = [int(charts.ROLES[role][0][place : place + 2], 16) for place in (1, 3, 5)]
        assert (pixels == colour).all(axis=1).sum() > 100


@pytest.mark.parametrize("name", ["$x_1", "<b>&", "a name\nof two lines"])
def test_any_name_is_drawn(name: str) -> None:
    drawn = Drawing(chart(labels=(name, "student"), y_ticks={10.0: name}))
    assert len(drawn.png) > 1000
    assert ElementTree.fromstring(drawn.svgs[0]) is not None


def test_of_many_ticks_some_are_named() -> None:
    (svg,) = Drawing(chart(x_ticks={float(place): f"student {place}" for place in range(40)})).svgs
    assert 5 <= svg.count("student ") <= charts.MAX_TICKS


def test_standard_errors_are_drawn_either_way() -> None:
    series = [Series(label="a", role="teacher", x=[0, 1], y=[50, 50], errors=[10, 10])]
    plain = [Series(label="a", role="teacher", x=[0, 1], y=[50, 50])]
    both = [Chart(name="a", title="", caption="", alt="", panels=[Panel(series=some)]) for some in (series, plain)]
    drawn, without = (Drawing(each).svgs[0].count("var(--teacher)") for each in both)
    assert drawn > without
