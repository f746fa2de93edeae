"""The iterations table from artifacts made by hand."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from noisystudent_core.config import (
    DataConfig,
    EvaluateConfig,
    FitConfig,
    InputNoise,
    IterationConfig,
    ModelConfig,
    NoisyStudentConfig,
    PseudoLabelConfig,
    Sources,
    TrainConfig,
)
from noisystudent_core.evaluation import report
from noisystudent_core.storage.manifest import Artifact, publish_manifest

Model = Mapping[str, str | None]
Make = Callable[..., Model]


def run_config(**sources: str) -> NoisyStudentConfig:
    return NoisyStudentConfig(
        name="digits",
        seed=3,
        sources=Sources(labelled="l", unlabelled="u", **sources),
        data=DataConfig(num_classes=10),
        iterations=(IterationConfig(),),
    )


@pytest.fixture
def make(memory_root: str) -> Make:
    """`make(validation=..., test=..., supervised=..., ratio=...)`: artifacts of one iteration."""
    folders = (f"{memory_root}/{number}" for number in itertools.count())

    def evaluation(metrics: dict[str, float] | None) -> str | None:
        if metrics is None:
            return None
        url = next(folders)
        publish_manifest(url, EvaluateConfig(), {}, (), facts={"metrics": metrics})
        return url

    def checkpoint(name: str, ratio: float | None) -> str:
        pseudo_labels = None if ratio is None else PseudoLabelConfig(unlabelled_ratio=ratio)
        model = ModelConfig(name=name)
        config = FitConfig(
            num_classes=10, model=model, train=TrainConfig(), noise=InputNoise(), pseudo_labels=pseudo_labels
        )
        url = next(folders)
        publish_manifest(url, config, {}, (), facts={"num_parameters": 1_234_567})
        return url

    def model(name: str = "net", ratio: float | None = None, **evaluations: dict[str, float] | None) -> Model:
        given = {**dict.fromkeys(("validation", "test", "supervised")), **evaluations}
        return {"checkpoint": checkpoint(name, ratio), **{key: evaluation(value) for key, value in given.items()}}

    return model


@pytest.fixture
def models(make: Make) -> list[Model]:
    teacher = make("small", validation={"top1": 91.0}, test={"top1": 90.25, "top5": 99.0})
    student = make(
        "large", 3.0, validation={"top1": 95.0}, test={"top1": 94.5, "top5": 99.5}, supervised={"top1": 91.25}
    )
    return [teacher, student]


@pytest.fixture
def rows(models: list[Model]) -> list[dict[str, Any]]:
    return report.iterations(run_config(test="t"), models)


def test_rows_separate_the_gain_of_the_method_from_the_gain_of_size(
    models: list[Model], rows: list[dict[str, Any]]
) -> None:
    keys = [Artifact.open(str(model["checkpoint"])).manifest.key for model in models]
    assert rows == [
        {
            "iteration": 0,
            "model": "small",
            "unlabelled_ratio": None,
            "validation_top1": 91.0,
            "top1": 90.25,
            "top5": 99.0,
            "supervised_top1": None,
            "change_teacher": None,
            "change_supervised": None,
            "parameters": 1_234_567,
            "checkpoint": f"checkpoints/{keys[0]}",
        },
        {
            "iteration": 1,
            "model": "large",
            "unlabelled_ratio": 3.0,
            "validation_top1": 95.0,
            "top1": 94.5,
            "top5": 99.5,
            "supervised_top1": 91.25,
            "change_teacher": 4.25,
            "change_supervised": 3.25,
            "parameters": 1_234_567,
            "checkpoint": f"checkpoints/{keys[1]}",
        },
    ]


def test_each_student_is_compared_with_its_own_teacher(make: Make) -> None:
    models = [make(validation={"top1": value}) for value in (90.0, 94.0, 93.0)]
    changes = [row["change_teacher"] for row in report.iterations(run_config(), models)]
    assert changes == [None, 4.0, -1.0]


def test_without_a_test_set_the_table_is_on_validation_and_says_so(make: Make) -> None:
    config = run_config(validation="v")
    rows = report.iterations(config, [make(validation={"top1": 91.0, "top5": 98.0})])
    assert (rows[0]["top1"], rows[0]["top5"], rows[0]["validation_top1"]) == (91.0, 98.0, 91.0)
    assert "no test set: top-1 is on the validation images, on which choices may have been made" in report.markdown(
        config, rows
    )


def test_metrics_have_the_same_keys_on_every_iteration(rows: list[dict[str, Any]]) -> None:
    assert report.metrics(rows[0]) == {"eval/top1": 90.25, "eval/top5": 99.0, "validation/top1": 91.0}
    assert report.metrics(rows[1]) == {
        "eval/top1": 94.5,
        "eval/top5": 99.5,
        "eval/supervised_top1": 91.25,
        "validation/top1": 95.0,
    }


def test_table_in_markdown(rows: list[dict[str, Any]]) -> None:
    header, rule, teacher, student = report.table(rows).splitlines()
    assert len({len(line) for line in (header, rule, teacher, student)}) == 1  # aligned
    assert [cell.strip() for cell in header.strip("|").split("|")] == list(report.COLUMNS.values())
    assert set(rule) == {"|", "-", " "}
    assert [cell.strip() for cell in teacher.strip("|").split("|")] == [
        *("0", "small", "1,234,567", "-", "91.00", "90.25", "99.00", "-", "-", "-")
    ]
    assert [cell.strip() for cell in student.strip("|").split("|")] == [
        *("1", "large", "1,234,567", "3.0", "95.00", "94.50", "99.50", "91.25", "+4.25", "+3.25")
    ]


@pytest.mark.parametrize(
    ("sources", "words"), [({"validation": "v"}, "a source of its own"), ({}, "a share of the labelled images")]
)
def test_page_says_gain_and_origin(rows: list[dict[str, Any]], sources: dict[str, str], words: str) -> None:
    text = report.markdown(run_config(test="t", **sources), rows)
    assert text.startswith("# digits, seed 3\n\n| iteration |")
    assert "The last student is +4.25 points from the first teacher." in text
    assert f"read once per model, last checkpoint; choices belong on the validation images ({words})" in text
