"""Which charts there are, of which numbers."""

import math
from typing import Any

import numpy as np
import pytest

from noisystudent_core.evaluation import plots, selection_plots
from noisystudent_core.evaluation.charts import Drawing
from noisystudent_core.evaluation.plots import Net

ROWS = [
    {"iteration": 0, "top1": 80.0, "supervised_top1": None, "mce": 100.0},
    {"iteration": 1, "top1": 90.0, "supervised_top1": 84.0, "mce": 60.0},
]


def net(role: str = "teacher", **suites: dict[str, float]) -> Net:
    arrays = {
        "reliability_images": {"values": [0, 1000, 2, 998]},
        "reliability_confidence": {"values": [None, 30.0, 60.0, 90.0]},  # JSON has no NaN
        "reliability_top1": {"values": [math.nan, 20.0, 50.0, 95.0]},
    }
    metrics = {"accuracy": {"ece": 4.0}, "corruptions": {}, "perturbations": {}, "adversarial": {}, **suites}
    return Net(label=role, role=role, metrics=metrics, arrays=arrays, num_images=dict.fromkeys(metrics, 100))


def points(chart: Any, label: str, panel: int = 0) -> list[tuple[float, float]]:
    found = [series for series in chart.panels[panel].series if series.label == label]
    return [point for series in found for point in zip(series.x, series.y, strict=True)]


def test_accuracy_has_standard_errors_of_a_share() -> None:
    chart = plots.accuracy(ROWS, num_images=400)
    ours, supervised = chart.panels[0].series
    assert (ours.x, ours.y) == ((0, 1), (80.0, 90.0))
    assert ours.errors == [pytest.approx(2.0), pytest.approx(1.5)]  # 100 sqrt(p (1 - p) / 400)
    assert (supervised.x, supervised.y) == ((1,), (84.0,))
    assert "teacher top1 80.0, student 1 top1 90.0" in chart.alt


def test_charts_of_what_was_not_measured_are_left_out() -> None:
    assert plots.robustness([{"iteration": 0, "top1": 80.0}]) is None
    nets = [Net(label="a", role="teacher", metrics=net().metrics, arrays={}, num_images={})]
    assert [plots.corruptions(nets), plots.adversarial(nets), plots.reliability(nets)] == [None] * 3


def test_corruptions_have_a_panel_each_and_a_table() -> None:
    found = {"corruption_error/fog/1": 5.0, "corruption_error/fog/2": 9.0, "corruption_error/fog": 7.0}
    found |= {"corruption_error/snow/1": 4.0, "corruption_error/snow/2": 6.0, "mean_corruption_error": 6.0}
    chart = plots.corruptions([net(corruptions=found), net("supervised"), net("student", corruptions=found)])
    assert chart is not None
    assert [panel.title for panel in chart.panels] == ["fog", "snow"]
    assert points(chart, "student", panel=1) == [(1, 4.0), (2, 6.0)]
    assert [*chart.header] == ["corruption", "severity", "teacher", "student"]
    assert chart.numbers[1] == ["fog", "2", "9.0", "9.0"]


def test_attacks_are_in_order_of_epsilon_pgd_beside() -> None:
    attacks = {"fgsm_16/top1": 20.0, "fgsm_0/top1": 90.0, "fgsm_0.5/top1": 80.0, "pgd_8/top1": 5.0}
    chart = plots.adversarial([net(adversarial=attacks)])
    assert chart is not None
    assert points(chart, "teacher") == [(0, 90.0), (1, 80.0), (3, 20.0), (2, 5.0)]
    assert chart.panels[0].x_ticks == {0: "0", 1: "0.5", 2: "8", 3: "16"}
    assert [series.style for series in chart.panels[0].series] == ["line", "points"]


def test_reliability_is_without_bins_of_hardly_any_image() -> None:
    chart = plots.reliability([net()])
    assert chart is not None
    assert points(chart, "teacher") == [(30.0, 20.0), (90.0, 95.0)]


def test_confidences_are_shares_of_each_set() -> None:
    before, after = np.array([0.1, 0.3, 0.9, 0.9], np.float32), np.array([0.9, 0.5], np.float32)
    chart = selection_plots.confidences(before, after, np.array([3, 1], np.int32), 0.4, "Counted.")
    assert chart is not None
    everything, once, copied = chart.panels[0].series
    assert [sum(series.y) for series in (everything, once, copied)] == pytest.approx([100] * 3)
    assert [max(series.y) for series in (everything, once, copied)] == pytest.approx([50, 50, 75])
    assert chart.panels[0].mark == 0.4


@pytest.mark.parametrize(("num_classes", "is_named"), [(2, True), (40, True), (41, False), (1000, False)])
def test_many_classes_are_shown_by_rank(num_classes: int, is_named: bool) -> None:
    rows = [
        {"class": number, "predicted": 100 + number, "above_threshold": 90, "selected": 50, "copies": 60}
        for number in range(num_classes)
    ]
    chart = selection_plots.class_counts(rows, [f"class {number}" for number in range(num_classes)])
    assert chart is not None
    predicted = chart.panels[0].series[0]
    assert bool(chart.numbers) is is_named
    assert (predicted.x if is_named else predicted.y)[0] == (100 if is_named else 99 + num_classes)
    assert len(Drawing(chart).svgs[0]) < 200_000


def test_without_a_selection_there_is_no_chart_of_one() -> None:
    nothing = np.array([], np.float32)
    assert selection_plots.confidences(nothing, nothing, np.array([], np.int32), 0.3, "") is None
    assert selection_plots.class_counts([], None) is None
