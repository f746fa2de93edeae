"""A study's table: means, errors and significance by hand."""

import math

import pytest

from noisystudent_core.evaluation.studies import Outcome, markdown, p_value, standard_error, summary


def outcomes(variant: str, *top1: float, data: str = "") -> list[Outcome]:
    return [
        Outcome(data=data, variant=variant, seed=seed, numbers={"top1": value, "loss_labelled": value / 100})
        for seed, value in enumerate(top1)
    ]


def test_means_and_errors_by_hand() -> None:
    rows = summary(outcomes("plain", 90, 91, 92) + outcomes("noisy", 93, 95, 94), "plain")
    assert [(row["variant"], row["seeds"], row["top1"]) for row in rows] == [("plain", 3, 91), ("noisy", 3, 94)]
    assert rows[0]["top1_error"] == pytest.approx(1 / math.sqrt(3))
    assert rows[0]["change"] is rows[0]["p_value"] is None
    assert rows[1]["change"] == 3
    assert rows[1]["change_error"] == pytest.approx(1 / math.sqrt(3))  # of 3, 4 and 2
    # t = 3 sqrt(3) with two degrees of freedom: p = 1 - t / sqrt(t^2 + 2)
    t = 3 * math.sqrt(3)
    assert rows[1]["p_value"] == pytest.approx(1 - t / math.sqrt(t * t + 2))


def test_changes_are_of_the_same_seeds() -> None:
    found = outcomes("plain", 10, 90) + outcomes("other", 11, 91)
    (_, other) = summary(found, "plain")
    assert other["change"] == 1
    assert other["change_error"] == 0
    assert other["p_value"] is None  # no spread: no test
    assert other["top1_error"] == pytest.approx(40)


def test_each_unlabelled_set_has_a_reference_of_its_own() -> None:
    found = [
        *outcomes("plain", 80, 82, data="in-domain"),
        *outcomes("plain", 60, 62, data="mismatched"),
        *outcomes("other", 70, 73, data="mismatched"),
    ]
    changes = [(row["data"], row["variant"], row["change"]) for row in summary(found, "plain")]
    assert changes == [("in-domain", "plain", None), ("mismatched", "plain", None), ("mismatched", "other", 10.5)]


def test_one_seed_has_no_error() -> None:
    (row, _) = summary(outcomes("plain", 90) + outcomes("other", 91), "plain")
    assert row["top1_error"] is None
    assert standard_error([1.0]) is None
    assert p_value([1.0]) is None


def test_the_page_marks_what_chance_hardly_gives() -> None:
    found = outcomes("plain", 90, 91, 92) + outcomes("sure", 95, 96.1, 97) + outcomes("maybe", 92, 91, 94)
    page = markdown("Which noise helps (table 6), digits", summary(found, "plain"), "plain")
    lines = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("|")}
    assert "95.00 +- 0.58" not in lines["sure"]
    assert "96.03 +- 0.58" in lines["sure"]
    assert "+5.03 +- 0.03 *" in lines["sure"]
    assert "*" not in lines["maybe"]
    assert "| -" in lines["plain"]
    assert 'against "plain", seed by seed' in page
    assert "supervised" not in page  # nobody measured it
