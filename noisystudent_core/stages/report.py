"""The page on a run: its table, charts and pictures, drawn from what the other stages left."""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence

from noisystudent_core.config.evaluation import ReportConfig
from noisystudent_core.evaluation import galleries, page, plots, selection_plots
from noisystudent_core.evaluation import report as table
from noisystudent_core.evaluation.charts import Chart, Drawing
from noisystudent_core.evaluation.galleries import Gallery
from noisystudent_core.events import Events
from noisystudent_core.stages.disagreements import disagreements
from noisystudent_core.stages.selected import Sample, sample_selection, selection_gallery
from noisystudent_core.storage.manifest import Artifact, Inputs, publish_part
from noisystudent_core.storage.stage import Place, Written, stage


@stage
def report(config: ReportConfig, inputs: Inputs, place: Place, events: Events) -> Written:
    """Write report.md, report.html, rows.json and figures/*.png, and report the figures.

    Inputs: "checkpoint N" and "evaluation N <name>" of every iteration N (`evaluation.report.inputs`). For charts and
    pictures of the selection "images", "selection", "predictions" (the selector's) and maybe "exclusions"; for those of
    what teacher and student see otherwise the reported images, "test" or "validation". What is not there is left out.
    """
    models = table.models_of(inputs)
    rows = table.iterations(models)
    names = _class_names(config, inputs)
    sample = sample_selection(config, inputs)
    pictures, notes = [], []
    if sample is not None:
        pictures += [found for found in [selection_gallery(sample, inputs, names)] if found]
        notes.append(sample.summary)
    if found := disagreements(config, inputs, models, names):
        pictures += found.galleries
        notes.append(found.summary)
    shown = [Drawing(chart) for chart in [*_charts(rows, models), *_selection_charts(sample, names)]]
    texts = {
        "report.md": table.text(config, rows, notes),
        "report.html": page.html(config, rows, shown, pictures, notes),
        "rows.json": json.dumps(rows, indent=1) + "\n",
    }
    return write(texts, shown, pictures, place, events)


def write(
    texts: Mapping[str, str],
    shown: Sequence[Drawing],
    pictures: Sequence[Gallery],
    place: Place,
    events: Events,
) -> Written:
    """Write texts by their names, and figures/*.png of all charts and pictures, which are reported."""
    drawn = {each.chart.name: each.png for each in shown} | {each.name: galleries.png(each) for each in pictures}
    for name, png in drawn.items():
        events("figure", name=name, png=b64encode(png).decode())
    files = {name: text.encode() for name, text in texts.items()}
    files |= {f"figures/{name}.png": png for name, png in drawn.items()}
    return Written(tuple(publish_part(place.folder, path, data, 0) for path, data in files.items()))


def _charts(rows: list[table.Row], models: list[table.Model]) -> list[Chart]:
    found = plots.nets(models)
    made = [
        plots.accuracy(rows, found[0].num_images["accuracy"]),
        plots.robustness(rows),
        plots.adversarial(found),
        plots.reliability(found),
        plots.corruptions(found),
    ]
    return [chart for chart in made if chart is not None]


def _selection_charts(sample: Sample | None, names: tuple[str, ...] | None) -> list[Chart]:
    if sample is None:
        return []
    made = [
        selection_plots.confidences(
            sample.before, sample.after, sample.after_copies, sample.threshold, sample.histogram_note
        ),
        selection_plots.class_counts(sample.classes, names),
    ]
    return [chart for chart in made if chart is not None]


def _class_names(config: ReportConfig, inputs: Mapping[str, str]) -> tuple[str, ...] | None:
    """The run's own names, or those that the source of the reported images gave."""
    if config.class_names is not None:
        return config.class_names
    reported = inputs.get("test") or inputs.get("validation")
    names = Artifact.open(reported).manifest.facts.get("class_names") if reported else None
    return tuple(names) if names else None
