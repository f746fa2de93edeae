"""An inspection as one HTML file, in the style of the report: nothing is loaded from anywhere."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape

from noisystudent_core.evaluation import page
from noisystudent_core.evaluation.charts import Drawing
from noisystudent_core.evaluation.contact_sheet import Pair, tile
from noisystudent_core.evaluation.galleries import JPEG_QUALITY, Gallery
from noisystudent_core.evaluation.inspection import Finding, Inspection
from noisystudent_core.evaluation.inspection_tables import Table, charts, tables

TITLE = "What is in the images"
SIGNS = {"error": "✖", "warning": "▲", "note": "●"}
STYLE = """
.findings { list-style: none; padding: 0; margin: 0 0 1.5rem; max-width: 60rem; }
.findings li { display: flex; gap: .75rem; padding: .4rem 0; border-bottom: 1px solid var(--line); }
.findings b { flex: 0 0 6rem; font-weight: 600; }
.error b { color: var(--teacher); } .warning b { color: var(--other); } .note b { color: var(--grey); }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); gap: 1rem; }
.pairs figure { margin: 0; min-width: 0; }
.pairs div { display: grid; grid-template-columns: 1fr 1fr; gap: 2px; }
.pairs img { width: 100%; aspect-ratio: 1; display: block; border: 1px solid var(--line); border-radius: 4px; }
.pairs figcaption { color: var(--ink); font-size: .8rem; overflow-wrap: anywhere; padding-top: .2rem; }
h3 + .wide { margin-bottom: 1.5rem; }
thead th:first-child { text-align: left; }
.many .panels { grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); }
.charts { grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); }
"""


def html(inspection: Inspection, samples: Gallery | None, pairs: Mapping[str, Sequence[Pair]]) -> str:
    """The whole page; `pairs` are images that resemble each other, by a heading."""
    shown = [Drawing(chart) for chart in charts(inspection)]
    sections = {
        "Findings": _findings(inspection.findings),
        "Counts": "".join(map(_table, tables(inspection))),
        "Measured": page.charts_grid(shown) if shown else "",
        "Images taken for the same": "".join(_pairs(heading, some) for heading, some in pairs.items() if some),
        "Pictures": page.article(samples) if samples is not None else "",
    }
    addresses = "".join(f"<p>{escape(s.name)}: <code>{escape(s.url)}</code></p>" for s in inspection.sets)
    return page.document(TITLE, sections, addresses, STYLE)


def _findings(findings: Sequence[Finding]) -> str:
    if not findings:
        return "<p>Nothing stands out.</p>"
    items = [
        f'<li class="{level}"><b>{SIGNS[level]} {level}</b><span>{escape(text)}</span></li>'
        for level, text in ((finding.level, finding.text) for finding in findings)
    ]
    return f'<ul class="findings">{"".join(items)}</ul>'


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in table.header[1:])
    first = f'<th scope="col">{escape(table.header[0])}</th>' if table.header[0] else "<td></td>"
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{escape(text)}</td>" for text in cells)}</tr>'
        for name, *cells in table.rows
    )
    title = escape(table.title)
    return (
        f'<h3>{title}</h3><div class="wide" tabindex="0" role="region" aria-label="{title}">'
        f"<table><thead><tr>{first}{head}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _pairs(heading: str, pairs: Sequence[Pair]) -> str:
    figures = "".join(
        f"<figure><div>{_image(pair.left)}{_image(pair.right)}</div><figcaption>{escape(pair.caption)}</figcaption></figure>"
        for pair in pairs
    )
    return f'<article><h3>{escape(heading)}</h3><div class="pairs">{figures}</div></article>'


def _image(data: bytes) -> str:
    """A square picture of an image file, in whichever encoding is the smaller."""
    encoded = {}
    for kind in ("png", "jpeg"):
        file = io.BytesIO()
        tile(data).save(file, kind, **({"optimize": True} if kind == "png" else {"quality": JPEG_QUALITY}))
        encoded[kind] = file.getvalue()
    kind, smaller = min(encoded.items(), key=lambda item: len(item[1]))
    return f'<img src="data:image/{kind};base64,{base64.b64encode(smaller).decode()}" loading="lazy" alt="">'
