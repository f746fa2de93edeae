"""What was measured of one model: a table with a line per figure, the words beside it, and the page."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from noisystudent_core.data.schemas import EVALUATIONS, from_bytes
from noisystudent_core.evaluation import model_plots, page, plots, report
from noisystudent_core.evaluation.charts import Chart, Drawing
from noisystudent_core.evaluation.corruptions import PROCEDURAL_FROST
from noisystudent_core.evaluation.galleries import Gallery
from noisystudent_core.evaluation.plots import Net
from noisystudent_core.storage.manifest import Artifact, Manifest

IMAGES = "images"  # the benchmark that the user's own are
BENCHMARKS: Mapping[str, str] = {
    IMAGES: "the images given",
    "folder": "a folder of classes",
    "imagenet_a": "ImageNet-A",
    "imagenet_c": "ImageNet-C",
    "imagenet_p": "ImageNet-P",
    "real": "ImageNet ReaL",
}
SUITES = ("accuracy", *report.SUITES)
SUITE_OF = {"imagenet_c": "corruptions", "imagenet_p": "perturbations"}  # of the others: accuracy
HEADINGS: Mapping[str, str] = {
    **{key: report.BEFORE[key] for key in ("top1", "top5")},
    **report.WHERE_MEASURED,
    "mce": "mCE (AlexNet = 100)",
    "corruption_top1": "top-1 under corruptions",
    "mfr": "mFR (AlexNet = 100)",
    "perturbation_top1": "top-1 along perturbations",
    "loss": "cross-entropy",
}
HEADER = ("figure", "measured on", "value", "images")
NO_MEAN = {"imagenet_c": ("mce", "mCE"), "imagenet_p": ("mfr", "mFR")}


STYLE = """
section > .wide :is(th:first-child, th:nth-child(2), td:nth-child(2)) { text-align: left; }
"""


class Measured(NamedTuple):
    """One evaluation of the model."""

    benchmark: str
    suite: str  # accuracy, corruptions, perturbations, adversarial
    manifest: Manifest
    url: str

    @property
    def metrics(self) -> dict[str, float]:
        """Numbers by name."""
        return self.manifest.facts["metrics"]


def measured(urls: Sequence[str]) -> list[Measured]:
    """Evaluations as they are found at their addresses, the images' before the benchmarks', accuracy first."""
    found = []
    for url in urls:
        manifest = Artifact.open(url).manifest
        kind = (manifest.config["suite"] or {"kind": "accuracy"})["kind"]
        suite = SUITE_OF.get(manifest.config["released"], kind)
        found.append(Measured(manifest.config["benchmark"], suite, manifest, url))
    return sorted(found, key=lambda one: ([*BENCHMARKS].index(one.benchmark), SUITES.index(one.suite)))


def lines(found: Sequence[Measured]) -> list[tuple[str, ...]]:
    """The table's lines under `HEADER`: every figure that is of a whole benchmark, of a sweep one epsilon."""
    return [
        (heading, BENCHMARKS[one.benchmark], f"{one.metrics[key]:.2f}", f"{one.manifest.facts['num_images']:,}")
        for one in found
        for key, heading in _headings(one.metrics).items()
    ]


def _headings(metrics: Mapping[str, float]) -> dict[str, str]:
    shown = {key: heading + (" ↓" if key in report.LOWER_IS_BETTER else "") for key, heading in HEADINGS.items()}
    attacks = report.attacks([key.removesuffix("/top1") for key in metrics])
    shown |= {f"{key}/top1": report.attack_heading(key) for key in attacks}
    return {key: heading for key, heading in shown.items() if key in metrics}


def remarks(found: Sequence[Measured]) -> list[str]:
    """What a reader must know to trust the table."""
    said = ["Shares in percent; ↓ lower is better. Every figure is of this model alone, on the images of its line."]
    worse = [one for one in found if one.benchmark == IMAGES and one.suite in SUITE_OF.values()]
    if worse:
        kinds = " and ".join(one.suite for one in worse)
        said.append(f"The {kinds} were made of the images given: these plain means compare with nothing published.")
    if any(f"corruption_error/{PROCEDURAL_FROST}" in one.metrics for one in worse):
        said.append("Frost is procedural, not of the published textures.")
    for one in found:
        if one.benchmark not in NO_MEAN:
            continue
        key, name = NO_MEAN[one.benchmark]
        if key in one.metrics:
            said.append(f"{name} is relative to AlexNet's published figures, which are 100.")
        else:
            said.append(
                f"No {name}: AlexNet's published figures are of ImageNet's 1000 classes, this model has others."
            )
    return said


def title(checkpoint: Manifest) -> str:
    """The page's."""
    return f"Measurements of {checkpoint.config['model']['name']}"


def text(checkpoint: Manifest, found: Sequence[Measured], notes: Sequence[str] = ()) -> str:
    """The page in Markdown, without charts and pictures; `notes` are further sentences."""
    said = " ".join([f"{checkpoint.facts['num_parameters']:,} parameters.", *remarks(found), *notes])
    return f"# {title(checkpoint)}\n\n{report.aligned([HEADER, *lines(found)])}\n{said}\n"


def html(
    checkpoint: Manifest,
    found: Sequence[Measured],
    shown: Mapping[str, Sequence[Drawing]],
    pictures: Sequence[Gallery],
    notes: Sequence[str] = (),
) -> str:
    """The whole page: `shown` by benchmark, `notes` are sentences above the pictures."""
    said = [f"{checkpoint.facts['num_parameters']:,} parameters.", *remarks(found)]
    sections = {
        "Result": page.paragraphs(said) + page.lines(HEADER, lines(found), "Table of figures"),
        **{f"On {BENCHMARKS[benchmark]}": page.charts_grid(drawn) for benchmark, drawn in shown.items() if drawn},
        "Pictures": page.paragraphs(notes) + "".join(map(page.article, pictures)) if notes else "",
    }
    manifests = {"checkpoint": checkpoint}
    manifests |= {f"{BENCHMARKS[one.benchmark]}, {one.suite}": one.manifest for one in found}
    addresses = page.lineage({what: f"{manifest.kind}/{manifest.key}" for what, manifest in manifests.items()})
    return page.document(title(checkpoint), sections, addresses, STYLE)


def charts(found: Sequence[Measured], names: Sequence[str] | None) -> dict[str, list[Chart]]:
    """Every chart whose numbers are there, by benchmark."""
    made = {}
    for benchmark in dict.fromkeys(one.benchmark for one in found):
        mine = {one.suite: one for one in found if one.benchmark == benchmark}
        net = _net(benchmark, mine)
        counts = _confused(mine["accuracy"].url) if "accuracy" in mine else {}
        made[benchmark] = [
            _named(chart, benchmark)
            for chart in (
                plots.reliability([net]),
                model_plots.classes(net, names),
                model_plots.confusion(net, counts, names),
                plots.adversarial([net]),
                model_plots.flips(net),
                plots.corruptions([net]),
            )
            if chart is not None
        ]
    return made


def _named(chart: Chart, benchmark: str) -> Chart:
    """Charts of benchmarks are known by theirs; those of the images given have the plain name."""
    return chart if benchmark == IMAGES else replace(chart, name=f"{chart.name}-{benchmark.replace('_', '-')}")


def _net(benchmark: str, mine: Mapping[str, Measured]) -> Net:
    nothing = dict[str, dict[str, float]].fromkeys(SUITES, {})
    return Net(
        label=BENCHMARKS[benchmark],
        role="student",
        metrics=nothing | {suite: one.metrics for suite, one in mine.items()},
        arrays=mine["accuracy"].manifest.facts["arrays"] if "accuracy" in mine else {},
        num_images={suite: one.manifest.facts["num_images"] for suite, one in mine.items()},
    )


def _confused(url: str) -> dict[tuple[int, int], int]:
    """Images by (true, predicted) class; those of many classes are in the artifact's rows alone."""
    artifact = Artifact.open(url)
    (part,) = artifact.manifest.parts
    rows = from_bytes(artifact.read(part), EVALUATIONS, part.path).select(["metric", "value"]).to_pylist()
    found: dict[tuple[int, int], int] = {}
    for row in rows:
        kind, *pair = row["metric"].split("/")
        if kind == "confusion":
            found[int(pair[0]), int(pair[1])] = int(row["value"])
    return found
