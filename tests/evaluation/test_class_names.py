"""Which folder of a benchmark is which class of a net."""

import pytest

from noisystudent_core.errors import ConfigurationError, LabelError
from noisystudent_core.evaluation.benchmarks import imagenet_class_names
from noisystudent_core.evaluation.class_names import class_names

WORDS = ["one", "three", "two"]


def test_what_is_given_goes_before_what_the_checkpoint_says() -> None:
    assert class_names(3, ("one", "two", "three"), ["a", "b", "c"], lambda: WORDS) == ["one", "two", "three"]
    assert class_names(3, None, ["a", "b", "c"], lambda: WORDS) == ["a", "b", "c"]
    assert class_names(3, "sorted", ["a", "b", "c"], lambda: ["two", "one", "three"]) == WORDS


def test_a_thousand_classes_without_names_are_imagenet_s() -> None:
    assert class_names(1000, None, [], lambda: WORDS) == list(imagenet_class_names())


@pytest.mark.parametrize("folders", [["10", "2", "0"], ["000", "002", "010"]])
def test_numbers_are_classes(folders: list[str]) -> None:
    names = class_names(11, None, None, lambda: folders)
    assert len(names) == 11
    assert sorted(folders) == sorted(names[place] for place in (0, 2, 10))


def test_a_class_without_a_folder_keeps_its_number() -> None:
    assert class_names(3, None, None, lambda: ["0", "2"]) == ["0", "1", "2"]


def test_names_that_nobody_ordered_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"3 classes have no names.*\(one, three, two\): which is which\? Set"):
        class_names(3, None, None, lambda: WORDS)
    with pytest.raises(ConfigurationError, match=r'class_names .*\["3", \.\.\.\], or to "sorted"'):
        class_names(3, None, None, lambda: ["3", "a"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("a", "b"), r"2 class_names \(a, b\): must be as many as the net's 4"),
        ("sorted", r"3 folders \(one, three, two"),
    ],
)
def test_another_number_of_names_is_refused(given: tuple[str, ...] | str, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        class_names(4, given, None, lambda: WORDS)  # type: ignore[arg-type]
