"""Charts of one model, of which numbers."""

import pytest

from noisystudent_core.evaluation import model_plots
from noisystudent_core.evaluation.charts import Drawing
from noisystudent_core.evaluation.plots import Net


def net(shares: list[float | None], images: list[int], flips: dict[str, float] | None = None) -> Net:
    arrays = {"class_top1": {"values": shares}, "class_images": {"values": images}}
    return Net(
        label="mine",
        role="student",
        metrics={"perturbations": flips or {}},
        arrays=arrays,
        num_images={"perturbations": 7},
    )


def test_classes_are_named_and_those_without_an_image_left_out() -> None:
    chart = model_plots.classes(net([50.0, None, 100.0], [4, 0, 2]), ["cat", "dog", "eel"])
    assert chart is not None
    (series,) = chart.panels[0].series
    assert (series.x, series.y) == ([50.0, 100.0], [0.0, -1.0])
    assert chart.panels[0].y_ticks == {0: "cat", -1: "eel"}
    assert [*chart.numbers] == [["cat", "50.0", "4"], ["eel", "100.0", "2"]]
    assert "of 6 images in all; lowest: cat" in chart.caption


def test_many_classes_are_shown_by_rank_with_the_lowest_in_numbers() -> None:
    chart = model_plots.classes(net([float(number) for number in range(100, 0, -1)], [3] * 100), None)
    assert chart is not None
    assert list(chart.panels[0].series[0].y) == [float(number) for number in range(1, 101)]
    assert chart.numbers[0] == ["99", "1.0", "3"]
    assert len(chart.numbers) == 40


def test_few_classes_make_a_square_of_counts() -> None:
    counts = {(0, 0): 3, (0, 1): 1, (1, 1): 2, (2, 0): 4}
    chart = model_plots.confusion(net([0.0] * 4, [1] * 4), counts, ["cat", "dog", "eel", "fox"])
    assert chart is not None
    assert [*chart.panels[0].cells] == [[3, 1, 0, 0], [0, 2, 0, 0], [4, 0, 0, 0], [0, 0, 0, 0]]
    assert [*chart.numbers] == [["eel → cat", "4"], ["cat → dog", "1"]]
    (svg,) = Drawing(chart).svgs
    assert all(f">{number}<" in svg for number in (3, 1, 2, 4))
    assert svg.count("var(--student)") == 4  # a shade for each pair that there is
    assert Drawing(chart).png


def test_many_classes_show_the_pairs_confused_most_often() -> None:
    counts = {(number, number): 5 for number in range(13)} | {(4, 2): 9, (2, 4): 9, (1, 0): 30}
    chart = model_plots.confusion(net([0.0] * 13, [1] * 13), counts, None)
    assert chart is not None
    assert chart.panels[0].y_ticks == {0: "1 → 0", -1: "2 → 4", -2: "4 → 2"}
    assert chart.panels[0].series[0].x == [30.0, 9.0, 9.0]


@pytest.mark.parametrize("counts", [{}, {(number, number): 1 for number in range(13)}])
def test_where_nothing_is_mistaken_for_anything_there_is_no_chart(counts: dict[tuple[int, int], int]) -> None:
    assert model_plots.confusion(net([0.0] * 13, [1] * 13), counts, None) is None


def test_flips_are_of_each_perturbation() -> None:
    found = {"flip_probability/zoom_blur": 2.0, "flip_probability/tilt": 4.0, "mean_flip_probability": 3.0}
    chart = model_plots.flips(net([], [], found | {"perturbation_top1": 90.0}))
    assert chart is not None
    assert chart.panels[0].series[0].x == [2.0, 4.0]
    assert chart.panels[0].y_ticks == {0: "zoom blur", -1: "tilt"}
    assert "over 7 sequences" in chart.caption
    assert model_plots.flips(net([], [])) is None
