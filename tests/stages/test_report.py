"""The report of a run of small nets: what it says agrees with what the stages left, and it needs nothing else."""

import json
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from typing import Any

import fsspec
import pytest

from noisystudent_core import stages
from noisystudent_core.config import EvaluateConfig, ExclusionsConfig
from noisystudent_core.config.evaluation import Adversarial, ReportConfig
from noisystudent_core.evaluation import report
from noisystudent_core.stages.selected import sample_selection
from noisystudent_core.storage.manifest import Artifact, artifact_url, input_digests
from tests.stages.small import DISTRIBUTIONS, LABELS, STUDENT, Small, Told

CONFIG = ReportConfig(name="small", seed=3)
Picture = Callable[..., bytes]
WriteSource = Callable[..., str]
Whole = tuple[Artifact, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def small() -> Iterator[Small]:
    url = f"memory://{uuid.uuid4().hex}"
    yield Small(url)
    fs, path = fsspec.core.url_to_fs(url)
    fs.rm(path, recursive=True)


@pytest.fixture(scope="module")
def data(small: Small, picture: Picture, write_source: WriteSource) -> dict[str, str]:
    sizes = {"labelled": 12, "unlabelled": 30, "validation": 9, "test": 9}
    urls = {}
    for place, (split, size) in enumerate(sizes.items()):
        labels = [row % 3 for row in range(size)]
        images = [picture(100 * place + row, label) for row, label in enumerate(labels)]
        given = None if split == "unlabelled" else labels
        urls[split] = write_source(f"{small.root}/sources/{split}.parquet", images, given)
    return small.prepare_all(urls)


@pytest.fixture(scope="module")
def run(small: Small, data: dict[str, str]) -> dict[str, Any]:
    """Inputs of the report on a run of one student: the models, and what is pictured."""
    labelled = {"labelled": data["labelled"], "validation": data["validation"]}
    teacher = small.teacher(data)
    predictions = small.run("predict", LABELS, {"checkpoint": teacher, "images": data["unlabelled"]})
    selected = {"images": data["unlabelled"], "selection": small.selection(data, teacher)}
    pseudo = small.run("predict", DISTRIBUTIONS, {"checkpoint": teacher, **selected})
    student = small.run("fit", STUDENT, {**labelled, **selected, "predictions": pseudo})

    def measured(checkpoint: str) -> dict[str, str]:
        attacks = EvaluateConfig(suite=Adversarial(fgsm_epsilons=(0, 2), pgd_steps=2, num_images=5))
        on_test = {"checkpoint": checkpoint, "images": data["test"]}
        return {
            "checkpoint": checkpoint,
            "validation": small.run(
                "evaluate", EvaluateConfig(benchmark="validation"), {**on_test, "images": data["validation"]}
            ),
            "test": small.run("evaluate", EvaluateConfig(), on_test),
            "adversarial": small.run("evaluate", attacks, on_test),
        }

    models = [
        measured(teacher),
        measured(student)
        | {
            "supervised": small.run(
                "evaluate", EvaluateConfig(), {"checkpoint": small.teacher(data, seed=5), "images": data["test"]}
            )
        },
    ]
    return {"models": models, "pictured": {**selected, "predictions": predictions, "test": data["test"]}}


def made(small: Small, inputs: dict[str, str], config: ReportConfig = CONFIG) -> Whole:
    """The report's artifact, and the figures that it told of."""
    told = Told([])
    stages.report(config, inputs, small.root, told)
    artifact = Artifact.open(artifact_url(config, input_digests(inputs), small.root))
    return artifact, [fields for event, fields in told.events if event == "figure"]


def read(artifact: Artifact, name: str) -> str:
    return artifact.folder.read(name).decode()


class Page(HTMLParser):
    """Every address in a page, the alternative texts, and the headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.tags = Counter[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags[tag] += 1
        self.addresses += [str(given[name]) for name in ("src", "href", "xlink:href") if name in given]
        if tag == "img" or given.get("role") == "img":
            self.images.append(given)


@pytest.fixture(scope="module")
def whole(small: Small, run: dict[str, Any]) -> Whole:
    return made(small, {**report.inputs(run["models"]), **run["pictured"]})


def test_report_is_whole(whole: Whole, run: dict[str, Any]) -> None:
    artifact, figures = whole
    assert artifact.manifest.kind == "reports"
    names = {"accuracy", "adversarial", "reliability", "confidences", "class-counts", "pseudo-labels"}
    assert names <= {figure["name"] for figure in figures}
    assert all(len(figure["png"]) < 1_000_000 for figure in figures)
    paths = {part.path for part in artifact.manifest.parts}
    assert paths == {"report.md", "report.html", "rows.json"} | {f"figures/{f['name']}.png" for f in figures}
    rows = report.iterations(run["models"])
    assert json.loads(read(artifact, "rows.json")) == rows
    assert read(artifact, "report.md").startswith(f"# small, seed 3\n\n{report.table(rows)}")
    assert "All figures but the validation's are on the test images" in read(artifact, "report.md")


def test_page_loads_nothing_and_says_what_its_pictures_show(whole: Whole, run: dict[str, Any]) -> None:
    artifact, _ = whole
    text = read(artifact, "report.html")
    page = Page(text)
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert not re.search(r"@import|url\((?!#)|<script|<link", text)
    assert page.tags["img"] > 10
    assert all(image.get("alt") or image.get("aria-label") for image in page.images)
    assert "prefers-color-scheme: dark" in text


def test_counts_of_disagreements_agree_with_the_measured_top1(whole: Whole, run: dict[str, Any]) -> None:
    artifact, _ = whole
    words = r"gets (\d+) right that .* and (\d+) wrong .* both are right on (\d+), neither on (\d+)\."
    found = re.search(words, read(artifact, "report.md"))
    assert found
    better, worse, both, neither = map(int, found.groups())
    first, last = (row["top1"] for row in report.iterations(run["models"]))
    assert better + worse + both + neither == 9
    assert (both + worse) / 9 == pytest.approx(first / 100)
    assert (both + better) / 9 == pytest.approx(last / 100)


def test_what_became_of_images_agrees_with_the_selection(small: Small, run: dict[str, Any]) -> None:
    sample = sample_selection(CONFIG, run["pictured"])
    assert sample is not None
    selection = Artifact.open(run["pictured"]["selection"]).manifest
    fates = Counter(row["fate"] for row in sample.rows)
    assert fates["kept"] + fates["copied"] == selection.facts["num_selected"] == len(sample.after)
    assert sum(row["copies"] for row in sample.rows) == selection.facts["num_copies"] == sample.after_copies.sum()
    assert {fate: count for fate, count in fates.items() if fate not in ("kept", "copied")} == selection.drops
    assert len(sample.before) == 30


def test_excluded_images_are_shown_under_their_reason(small: Small, run: dict[str, Any], data: dict[str, str]) -> None:
    excluded = small.run(
        "exclusions", ExclusionsConfig(), {"unlabelled": data["unlabelled"], "test": data["unlabelled"]}
    )
    inputs = {**run["pictured"], "exclusions": excluded}
    sample = sample_selection(CONFIG, inputs)
    assert sample is not None
    assert {row["fate"] for row in sample.rows if not row["copies"]} <= {"evaluation_image"}


def test_a_report_is_made_once(small: Small, whole: Whole, run: dict[str, Any]) -> None:
    first, figures = whole
    again, told = made(small, {**report.inputs(run["models"]), **run["pictured"]})
    assert figures and not told
    assert again.manifest == first.manifest


def test_nothing_but_models_is_needed(small: Small, run: dict[str, Any]) -> None:
    teacher = {name: run["models"][0][name] for name in ("checkpoint", "validation")}
    config = CONFIG.model_copy(update={"has_test": False})
    artifact, figures = made(small, report.inputs([teacher]), config)
    assert {figure["name"] for figure in figures} == {"accuracy", "reliability"}
    assert "There is no test set" in read(artifact, "report.html")
    assert "<h2>Pictures</h2>" not in read(artifact, "report.html")


def test_images_are_sampled_evenly_where_there_are_more(small: Small, run: dict[str, Any]) -> None:
    config = CONFIG.model_copy(update={"num_images": 4, "class_names": ("a", "<b>", "c & d")})
    artifact, _ = made(small, {**report.inputs(run["models"]), **run["pictured"]}, config)
    assert "Of 4 of the 9 test images" in read(artifact, "report.md")
    text = read(artifact, "report.html")
    assert "<b>" not in text
    assert "&lt;b&gt;" in text
