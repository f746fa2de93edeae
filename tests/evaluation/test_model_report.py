"""The table of one model and the words beside it, of artifacts made by hand."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from noisystudent_core.config import Corruptions, EvaluateConfig
from noisystudent_core.evaluation import model_report
from noisystudent_core.storage.manifest import publish_manifest

Make = Callable[..., str]
WORSE = {"corruption_error/fog/1": 20.0, "corruption_error/fog": 20.0, "mean_corruption_error": 20.0}


@pytest.fixture
def make(memory_root: str) -> Make:
    folders = (f"{memory_root}/{number}" for number in itertools.count())

    def evaluation(metrics: dict[str, float], **settings: Any) -> str:
        url = next(folders)
        facts = {"metrics": metrics, "num_images": 1200, "arrays": {}}
        publish_manifest(url, EvaluateConfig(**settings), {}, (), facts=facts)
        return url

    return evaluation


def said(*urls: str) -> str:
    return " ".join(model_report.remarks(model_report.measured(urls)))


def test_lines_are_the_figures_of_whole_benchmarks_own_images_first(make: Make) -> None:
    attacks = {f"fgsm_{epsilon}/top1": 90.0 - epsilon for epsilon in (0, 1, 2, 16)} | {"pgd_16/top1": 1.0}
    urls = [
        make({"top1": 60.0, "top5": 80.0}, benchmark="imagenet_a", released="imagenet_a"),
        make(attacks, benchmark="images", suite={"kind": "adversarial"}),
        make(WORSE, benchmark="images", suite=Corruptions()),
        make({"top1": 91.0, "loss": 0.5, "ece": 3.0}, benchmark="images"),
    ]
    own = "the images given"
    assert model_report.lines(model_report.measured(urls)) == [
        ("top-1", own, "91.00", "1,200"),
        ("ECE ↓", own, "3.00", "1,200"),
        ("cross-entropy", own, "0.50", "1,200"),
        ("corruption error ↓", own, "20.00", "1,200"),
        ("FGSM ε=2 top-1", own, "88.00", "1,200"),
        ("PGD ε=16 top-1", own, "1.00", "1,200"),
        ("top-1", "ImageNet-A", "60.00", "1,200"),
        ("top-5", "ImageNet-A", "80.00", "1,200"),
    ]


def test_a_relative_mean_is_there_only_against_published_figures(make: Make) -> None:
    published = make({**WORSE, "mce": 45.7}, benchmark="imagenet_c", released="imagenet_c")
    assert ("mCE (AlexNet = 100) ↓", "ImageNet-C", "45.70", "1,200") in model_report.lines(
        model_report.measured([published])
    )
    assert "mCE is relative to AlexNet's published figures, which are 100." in said(published)
    other = make({"mean_flip_probability": 2.0}, benchmark="imagenet_p", released="imagenet_p")
    assert "No mFR: AlexNet's published figures are of ImageNet's 1000 classes" in said(other)
    own = make({**WORSE, "corruption_error/frost (procedural)": 9.0}, benchmark="images", suite=Corruptions())
    assert "corruptions were made of the images given: these plain means compare with nothing published." in said(own)
    assert "Frost is procedural" in said(own)
    assert "AlexNet" not in said(own)
    assert "teacher" not in said(own, other, published)
