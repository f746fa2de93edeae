"""Overrides reach every setting by its path, and wrong ones name what there is."""

from typing import Any

import pytest

from noisystudent_core.config import NoisyStudentConfig, apply_overrides, parse_assignments, validated
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.recipes import digits


def test_path_reaches_one_iteration() -> None:
    config = apply_overrides(digits(), {"iterations.1.train.warmup_epochs": 7})
    assert [student.train.warmup_epochs for student in config.iterations] == [10, 7]


def test_star_reaches_every_iteration() -> None:
    config = apply_overrides(digits(), {"iterations.*.pseudo_labels.labels": "hard"})
    assert [student.pseudo_labels.labels for student in config.iterations] == ["hard", "hard"]


def test_nothing_else_changes() -> None:
    config = apply_overrides(digits(), {"seed": 5})
    assert config == digits().model_copy(update={"seed": 5})
    assert apply_overrides(digits(), {}) == digits()


def test_later_overrides_see_earlier_ones() -> None:
    learner = digits().teacher.model_dump(mode="json")
    config = apply_overrides(digits(), {"selector": learner, "selector.train.steps": 9})
    assert config.selector != "teacher" and config.selector.train.steps == 9


def test_a_whole_branch_can_be_replaced() -> None:
    config = apply_overrides(digits(), {"selection.balance": {"0": 10, "9": 20}})
    assert config.selection.balance == {0: 10, 9: 20}


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("sead", "no setting named 'sead' there; there is name, seed, sources, data"),
        ("teacher.train.epoch", "no setting named 'epoch' there; there is epochs, steps"),
        ("iterations.2.train.steps", "'2' is not one of 0 to 1, nor *"),
        ("iterations.first.train.steps", "'first' is not one of 0 to 1, nor *"),
        ("iterations.-1.train.steps", "'-1' is not one of 0 to 1, nor *"),
        ("teacher.model.name.length", "no setting named 'length' there; there is nothing below it"),
        ("", "no setting named ''"),
    ],
)
def test_unknown_path_is_told_what_there_is(path: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        apply_overrides(digits(), {path: 1})
    assert words in str(caught.value) and repr(path) in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("selection.threshold", 1, "selection.threshold=1: Input should be less than 1"),
        ("selection.num_images_per_class", 0, "greater than or equal to 1"),
        ("selection.balance", {"10": 5}, "balance names class 10: classes are 0 to 9"),
        ("iterations.0.pseudo_labels.unlabelled_ratio", 0.5, "unlabelled_ratio=0.5: Input should be greater than or"),
        ("iterations.*.train.optimizer.name", "adam", "'rmsprop', 'sgd' or 'adamw'"),
        ("teacher.train.epochs", 3, "epochs=3.0 and steps=300: give one of them"),
        ("iterations", [], "iterations=[]"),
        ("teacher.train.steps", "many", "teacher.train.steps='many': Input should be a valid integer"),
        ("teacher.model", {"name": "test_vit", "size": 3}, "teacher.model.size=3: Extra inputs are not permitted"),
    ],
)
def test_refused_value_is_one_line(path: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        apply_overrides(digits(), {path: value})
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_every_wrong_value_is_named_at_once() -> None:
    with pytest.raises(ConfigurationError, match=r"threshold=2.*max_copies=0"):
        apply_overrides(digits(), {"selection.threshold": 2, "selection.max_copies": 0})


def test_values_are_json_or_else_text() -> None:
    words = ["a=1", "b=0.5", "c=true", "d=null", 'e={"0": 3}', "f=test_resnet", "g=s3://bucket/a=b", 'h="1"', "i="]
    expected = {"a": 1, "b": 0.5, "c": True, "d": None, "e": {"0": 3}, "f": "test_resnet", "g": "s3://bucket/a=b"}
    assert parse_assignments(words) == expected | {"h": "1", "i": ""}


@pytest.mark.parametrize("word", ["seed", "=1", ""])
def test_assignment_without_key_or_sign_is_refused(word: str) -> None:
    with pytest.raises(ConfigurationError, match="must read key=value"):
        parse_assignments([word])


def test_validated_reads_what_a_configuration_dumps() -> None:
    assert validated(digits().model_dump(mode="json"), NoisyStudentConfig) == digits()
