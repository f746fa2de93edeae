"""The report on one small model: what it says agrees with what was measured, and it needs nothing else."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from noisystudent_core import stages
from noisystudent_core.config import CorruptConfig, EvaluateConfig, Perturbations
from noisystudent_core.config.evaluation import Adversarial, ModelReportConfig
from noisystudent_core.storage.manifest import Artifact, artifact_url, input_digests
from tests.stages.small import Small, Told
from tests.stages.test_report import Page, read

Picture = Callable[..., bytes]
CONFIG = ModelReportConfig(class_names=("cat", "<b>", "eel"))


@pytest.fixture
def inputs(memory_root: str, picture: Picture, write_source: Callable[..., str]) -> dict[str, str]:
    """A checkpoint, nine images, and what was measured of it on them."""
    small = Small(memory_root)
    labels = [row % 3 for row in range(9)]
    source = write_source(
        f"{memory_root}/images.parquet", [picture(n, label) for n, label in enumerate(labels)], labels
    )
    images = small.prepare(source, labelled=True)
    checkpoint = small.teacher({"labelled": images, "validation": images})
    suite = Perturbations(num_images=2)
    corrupted = small.run(
        "corrupt", CorruptConfig(suite=suite, resolution_px=32, crop_fraction=1.0), {"images": images}
    )

    def measured(beside: dict[str, str], suite: Any = None) -> str:
        return small.run(
            "evaluate", EvaluateConfig(benchmark="images", suite=suite), {"checkpoint": checkpoint, **beside}
        )

    return {
        "checkpoint": checkpoint,
        "images": images,
        "evaluation images": measured({"images": images}),
        "evaluation images perturbations": measured({"corrupted": corrupted}, suite),
        "evaluation images adversarial": measured({"images": images}, Adversarial(fgsm_epsilons=(0, 2), pgd_steps=2)),
    }


def made(root: str, inputs: dict[str, str]) -> tuple[Artifact, list[dict[str, Any]]]:
    told = Told([])
    stages.report_model(CONFIG, inputs, root, told)
    artifact = Artifact.open(artifact_url(CONFIG, input_digests(inputs), root))
    return artifact, [fields for event, fields in told.events if event == "figure"]


def test_page_has_what_was_measured_and_nothing_of_a_run(memory_root: str, inputs: dict[str, str]) -> None:
    artifact, figures = made(memory_root, inputs)
    names = {"reliability", "classes", "confusion", "adversarial", "flips", "mistakes"}
    assert {figure["name"] for figure in figures} == names
    assert {part.path for part in artifact.manifest.parts} == {
        "report.md",
        "report.html",
        "rows.json",
        *(f"figures/{name}.png" for name in names),
    }
    text, page = read(artifact, "report.md"), read(artifact, "report.html")
    metrics = Artifact.open(inputs["evaluation images"]).manifest.facts["metrics"]
    assert json.loads(read(artifact, "rows.json"))[0] == {
        "figure": "top-1",
        "measured on": "the images given",
        "value": f"{metrics['top1']:.2f}",
        "images": "9",
    }
    num_wrong = round(9 * (1 - metrics["top1"] / 100))
    assert f"Of 9 of the 9 images, the model gets {num_wrong} wrong." in text
    found = Page(page)
    assert found.tags["img"] == num_wrong
    assert all(address.startswith(("data:image/", "#")) for address in found.addresses)
    assert "<b>" not in page
    assert "&lt;b&gt;" in page
    for word in ("teacher is", "student", "iteration", "seed", "selection", "supervised"):
        assert word not in text.lower()
    again, told = made(memory_root, inputs)
    assert not told
    assert again.manifest == artifact.manifest


def test_without_images_there_are_no_pictures(memory_root: str, inputs: dict[str, str]) -> None:
    given = {name: url for name, url in inputs.items() if name in ("checkpoint", "evaluation images perturbations")}
    artifact, figures = made(memory_root, given)
    assert {figure["name"] for figure in figures} == {"flips"}
    assert "<h2>Pictures</h2>" not in read(artifact, "report.html")
