"""The report as one HTML file: nothing is loaded from anywhere; light or dark as the reader's system is."""

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources

from noisystudent_core.config.evaluation import ReportConfig
from noisystudent_core.evaluation import galleries, report
from noisystudent_core.evaluation.charts import Chart, Drawing
from noisystudent_core.evaluation.figures import Group
from noisystudent_core.evaluation.galleries import Gallery
from noisystudent_core.evaluation.report import Row

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # a browser loads nothing else
MARKERS = {
    "teacher": '<circle cx="14" cy="6" r="4"/>',
    "supervised": '<path d="M14 1.5l4.5 8.5h-9z"/>',
    "student": '<path d="M10 2h8v8h-8z"/>',
    "other": '<path d="M14 1.5l4.5 4.5-4.5 4.5-4.5-4.5z" fill="none" stroke="currentColor" stroke-width="1.5"/>',
    "all": '<circle cx="14" cy="6" r="4"/>',
}
DASHES = {"supervised": "5 3", "other": "7 2 2 2"}


def html(
    config: ReportConfig,
    rows: Sequence[Row],
    shown: Sequence[Drawing],
    pictures: Sequence[Gallery],
    notes: Sequence[str] = (),
) -> str:
    """The whole page; `notes` are sentences on the selection, above its charts and pictures."""
    sections = {
        "Result": f"{paragraphs(report.remarks(config, rows))}{_table(rows)}",
        "Measured": charts_grid(shown),
        "Pictures": f"{paragraphs(notes)}{''.join(map(article, pictures))}" if pictures or notes else "",
    }
    addresses = lineage({_role(row): row["checkpoint"] for row in rows})
    return document(f"{config.name}, seed {config.seed}", sections, addresses)


def document(title: str, sections: Mapping[str, str], footer: str, own_style: str = "") -> str:
    """A page of sections, HTML by their headings; empty ones are left out."""
    style = resources.files("noisystudent_core.evaluation").joinpath("page.css").read_text()
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta name="color-scheme" content="light dark"><style>{style}{own_style}</style></head><body>',
        f'<header><p class="kind">Noisy Student Training</p><h1>{escape(title)}</h1></header><main>',
        *(f"<section><h2>{escape(heading)}</h2>{body}</section>" for heading, body in sections.items() if body),
        f"</main><footer>{footer}</footer></body></html>\n",
    ]
    return "\n".join(parts)


def charts_grid(shown: Sequence[Drawing]) -> str:
    """Charts side by side, each with its caption and its numbers."""
    return f'<div class="charts">{"".join(map(_chart, shown))}</div>'


def _table(rows: Sequence[Row]) -> str:
    """A row per figure, a column per iteration; beneath a student's figure that of its supervised baseline."""
    head = "".join(f'<th scope="col">{_role(row)}<small>{escape(row["model"])}</small></th>' for row in rows)
    lines = [_line("parameters", "parameters", rows), _line("unlabelled_ratio", "unlabelled : labelled", rows)]
    lines += [_line(key, heading, rows) for key, heading in report.figures_of(rows).items()]
    lines.append(_line("change_teacher", "top-1, change from its teacher", rows))
    lines.append(_line("validation_top1", "validation top-1", rows))
    return (
        '<div class="wide" tabindex="0" role="region" aria-label="Table of iterations">'
        f"<table><thead><tr><td></td>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
        '<p class="hint">Shares in percent; ↓ lower is better. Small: the same net fitted on the labelled images '
        "alone, and how far the student is from it.</p>"
    )


def _line(key: str, heading: str, rows: Sequence[Row]) -> str:
    cells = [f"<td>{report.cell(key, row.get(key))}{_supervised(key, row)}</td>" for row in rows]
    arrow = " ↓" if key in report.LOWER_IS_BETTER else ""
    return f'<tr><th scope="row">{escape(heading)}{arrow}</th>{"".join(cells)}</tr>'


def _supervised(key: str, row: Row) -> str:
    value = row.get(f"supervised_{key}")
    if value is None or row[key] is None:
        return ""
    return f"<small>{report.cell(key, value)} ({report.cell('change', row[key] - value)})</small>"


def _role(row: Row) -> str:
    return f"student {row['iteration']}" if row["iteration"] else "teacher"


def _chart(drawing: Drawing) -> str:
    chart = drawing.chart
    many = ' class="many"' if len(chart.panels) > 1 else ""
    legend = "".join(f"<li>{_mark(role)}{escape(label)}</li>" for label, role in chart.legend().items())
    drawn = "".join(drawing.svgs)
    return (
        f"<figure{many}><h3>{escape(chart.title)}</h3><ul>{legend}</ul>"
        f'<div class="panels" role="img" aria-label="{escape(chart.alt)}">{drawn}</div>'
        f"<figcaption>{escape(chart.caption)}</figcaption>{_numbers(chart)}</figure>"
    )


def _mark(role: str) -> str:
    """The line and marker of a role, for a legend."""
    colour = "var(--grey)" if role == "all" else f"var(--{role})"
    dashes = f' stroke-dasharray="{DASHES[role]}"' if role in DASHES else ""
    return (
        '<svg viewBox="0 0 28 12" width="28" height="12" aria-hidden="true" fill="currentColor" '
        f'style="color:{colour}">'
        f'<path d="M0 6h28" stroke="currentColor" stroke-width="2"{dashes}/>{MARKERS[role]}</svg>'
    )


def _numbers(chart: Chart) -> str:
    if not chart.numbers:
        return ""
    numbers = lines(chart.header, chart.numbers, f"Numbers of {chart.title}")
    return f"<details><summary>Numbers</summary>{numbers}</details>"


def lines(header: Sequence[str], rows: Sequence[Sequence[str]], label: str) -> str:
    """A table of texts; each row begins with what it is of."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(value)}</td>" for value in rest)}</tr>'
        for first, *rest in rows
    )
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(label)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def article(gallery: Gallery) -> str:
    """A gallery with its heading and words."""
    groups = "".join(map(_group, gallery.groups))
    return f"<article><h3>{escape(gallery.title)}</h3><p>{escape(gallery.caption)}</p>{groups}</article>"


def _group(group: Group) -> str:
    notes = group.notes or [""] * len(group.captions)
    small = ' class="pixels"' if group.images.shape[-1] <= galleries.LOSSLESS_PX else ""
    tiles = [
        f'<figure><img{small} src="{url}" loading="lazy" alt="{escape(f"{caption} {note}".strip())}">'
        f"<figcaption>{escape(caption)}<small>{escape(note)}</small></figcaption></figure>"
        for url, caption, note in zip(galleries.data_urls(group), group.captions, notes, strict=True)
    ]
    return f'<h4>{escape(group.heading)}</h4><div class="tiles">{"".join(tiles)}</div>'


def lineage(addresses: Mapping[str, str]) -> str:
    """Where what the page is made of lies, by what it is."""
    return "".join(f"<p>{escape(what)}: <code>{escape(url)}</code></p>" for what, url in addresses.items())


def paragraphs(sentences: Sequence[str]) -> str:
    """A paragraph for each sentence."""
    return "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
