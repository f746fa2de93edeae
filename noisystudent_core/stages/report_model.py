"""The page on one model, whoever made it: its table, charts and pictures, drawn from what was measured of it."""

import json
from collections.abc import Sequence

from noisystudent_core.config.evaluation import ModelReportConfig
from noisystudent_core.evaluation import model_report
from noisystudent_core.evaluation.charts import Drawing
from noisystudent_core.events import Events
from noisystudent_core.models import checkpoints
from noisystudent_core.stages.disagreements import mistakes
from noisystudent_core.stages.report import write
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import Artifact, Inputs
from noisystudent_core.storage.stage import Place, Written, stage


@stage
def report_model(config: ModelReportConfig, inputs: Inputs, place: Place, events: Events) -> Written:
    """Write report.md, report.html, rows.json and figures/*.png, and report the figures.

    Inputs: "checkpoint", an "evaluation <name>" for each measurement, and maybe "images", labelled ones, for pictures
    of what the model gets wrong.
    """
    checkpoint = Artifact.open(inputs["checkpoint"]).manifest
    found = model_report.measured([url for name, url in inputs.items() if name.startswith("evaluation ")])
    names = _class_names(config, inputs)
    wrong = mistakes(config, inputs["checkpoint"], inputs["images"], names) if "images" in inputs else None
    pictures, notes = (wrong.galleries, [wrong.summary]) if wrong is not None else ([], [])
    charts = model_report.charts(found, names)
    shown = {benchmark: [Drawing(chart) for chart in made] for benchmark, made in charts.items()}
    rows = [dict(zip(model_report.HEADER, line, strict=True)) for line in model_report.lines(found)]
    texts = {
        "report.md": model_report.text(checkpoint, found, notes),
        "report.html": model_report.html(checkpoint, found, shown, pictures, notes),
        "rows.json": json.dumps(rows, indent=1) + "\n",
    }
    return write(texts, [drawing for drawn in shown.values() for drawing in drawn], pictures, place, events)


def _class_names(config: ModelReportConfig, inputs: Inputs) -> Sequence[str] | None:
    """As the settings say, else the checkpoint, else the source of the images."""
    if config.class_names is not None:
        return config.class_names
    known = json.loads(Folder.at(inputs["checkpoint"]).read(checkpoints.CONFIG)).get("label_names")
    if known or "images" not in inputs:
        return known
    return Artifact.open(inputs["images"]).manifest.facts.get("class_names")
