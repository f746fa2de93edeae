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
from noisystudent_core.evaluation.corruptions import mean_corruption_error
from noisystudent_core.evaluation.perturbations import mean_flip_rate
from noisystudent_core.storage.manifest import Artifact, publish_manifest

Metrics = dict[str, float]
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
    return report.iterations(models)


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
    changes = [row["change_teacher"] for row in report.iterations(models)]
    assert changes == [None, 4.0, -1.0]


def test_without_a_test_set_the_table_is_on_validation_and_says_so(make: Make) -> None:
    config = run_config(validation="v")
    rows = report.iterations([make(validation={"top1": 91.0, "top5": 98.0})])
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
    assert [cell.strip() for cell in header.strip("|").split("|")] == list(report.columns(rows).values())
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
    assert "last student's top-1 is +4.25 points from the first teacher's and +3.25 from the same net fitted" in text
    assert f"read once per model, last checkpoint; choices belong on the validation images ({words})" in text


# robustness, where it is measured

ERRORS = {"fog": (40.0, 20.0), "snow": (10.0, 30.0)}  # in percent, at severities 1 and 3


def corruptions(factor: float = 1.0) -> Metrics:
    errors = {name: [factor * error for error in by_level] for name, by_level in ERRORS.items()}
    single = {f"corruption_error/{name}/{2 * i + 1}": e for name, both in errors.items() for i, e in enumerate(both)}
    means = {f"corruption_error/{name}": sum(both) / 2 for name, both in errors.items()}
    mean = sum(means.values()) / 2
    return {**single, **means, "mean_corruption_error": mean, "corruption_top1": 100 - mean}


def flips(first: float, second: float) -> Metrics:
    found = {"flip_probability/tilt": first, "flip_probability/scale": second}
    return {**found, "mean_flip_probability": (first + second) / 2, "perturbation_top1": 90.0}


@pytest.fixture
def measured(make: Make) -> list[Model]:
    """A teacher, and a student that halves its errors and has a baseline."""
    accuracy = {"top1": 80.0, "macro_f1": 79.0, "ece": 4.0}
    attacks = {"fgsm_0/top1": 80.0, "fgsm_2/top1": 60.0, "fgsm_16/top1": 10.0, "pgd_16/top1": 1.0}
    teacher = make(
        validation=accuracy,
        test=accuracy,
        corruptions=corruptions(),
        perturbations=flips(2.0, 8.0),
        adversarial=attacks,
    )
    student = make(
        validation=accuracy,
        test=accuracy,
        supervised=accuracy,
        corruptions=corruptions(0.5),
        perturbations=flips(1.0, 2.0),
        adversarial=attacks,
        supervised_corruptions=corruptions(2.0),
        supervised_perturbations=flips(2.0, 8.0),
    )
    return [teacher, student]


def test_means_are_relative_to_the_first_teacher_which_is_100(measured: list[Model]) -> None:
    first, last = report.iterations(measured)
    assert (first["mce"], first["mfr"]) == (100, 100)
    assert last["mce"] == pytest.approx(50)
    assert last["supervised_mce"] == pytest.approx(200)
    assert last["mfr"] == pytest.approx(100 * (1 / 2 + 2 / 8) / 2)
    assert (last["mean_corruption_error"], last["corruption_top1"]) == (12.5, 87.5)


def test_relative_means_are_those_of_the_evaluators(measured: list[Model]) -> None:
    fractions = [{name: sum(both) / 200 * factor for name, both in ERRORS.items()} for factor in (1.0, 0.5)]
    last = report.iterations(measured)[-1]
    assert last["mce"] == pytest.approx(mean_corruption_error(fractions[1], baseline=fractions[0]))
    rates = {"tilt": 0.01, "scale": 0.02}, {"tilt": 0.02, "scale": 0.08}
    assert last["mfr"] == pytest.approx(mean_flip_rate(rates[0], baseline=rates[1]))


def test_without_errors_of_the_teacher_nothing_relates_to_them(make: Make) -> None:
    accuracy = {"top1": 80.0}
    models = [make(validation=accuracy, perturbations=flips(0.0, value)) for value in (8.0, 2.0)]
    rows = report.iterations(models)
    assert "mfr" not in rows[0]
    assert rows[1]["mean_flip_probability"] == 1
    assert "No mFR: the first teacher makes no error of some kind" in report.markdown(run_config(), rows)


def test_columns_are_what_was_measured_one_epsilon_of_the_sweep(measured: list[Model], rows: list[dict]) -> None:
    assert not {"mce", "ece", "fgsm_2"} & report.columns(rows).keys()
    headings = list(report.columns(report.iterations(measured)).values())
    assert [heading for heading in headings if "FGSM" in heading or "PGD" in heading] == [
        "FGSM ε=2 top-1",
        "PGD ε=16 top-1",
    ]
    assert headings[7:11] == ["macro-F1", "ECE", "mCE (teacher = 100)", "corruption error"]


def test_metrics_of_robustness_have_the_same_keys_on_every_iteration(measured: list[Model]) -> None:
    first, last = map(report.metrics, report.iterations(measured))
    assert first.keys() == {key for key in last if "supervised" not in key}
    assert {"eval/mce", "eval/mfr", "eval/mean_corruption_error", "eval/fgsm_16", "eval/pgd_16"} <= first.keys()
    assert {"eval/ece", "eval/macro_f1", "eval/mean_flip_probability", "eval/perturbation_top1"} <= first.keys()
    assert last["eval/supervised_mce"] == pytest.approx(200)
    assert not [key for key in last if "/" in key.removeprefix("eval/").removeprefix("validation/")]


def test_last_student_is_compared_with_teacher_and_baseline(measured: list[Model]) -> None:
    compared = dict(report.comparison(report.iterations(measured)))
    assert compared["mCE (teacher = 100)"] == {
        "first teacher": "100.00",
        "supervised": "200.00",
        "last student": "50.00",
        "vs. teacher": "-50.00",
        "vs. supervised": "-150.00",
    }
    assert compared["PGD ε=16 top-1"] == {"first teacher": "1.00", "last student": "1.00", "vs. teacher": "+0.00"}


def test_models_come_back_from_the_names_of_inputs(measured: list[Model]) -> None:
    given = {**report.inputs(measured), "selection": "s", "test": "t"}
    assert report.models_of(given) == [{k: url for k, url in model.items() if url} for model in measured]
    many = [{"checkpoint": str(number)} for number in range(12)]
    assert report.models_of(report.inputs(many)) == many
