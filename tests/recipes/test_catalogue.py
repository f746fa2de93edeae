"""Every recipe builds, shrinks, and takes the shortcuts of flow and command line."""

from pathlib import Path
from typing import Any

import pytest

from noisystudent_core.config import LearnerConfig, NoisyStudentConfig
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.recipes import RECIPES, SHORTCUTS, configure, digits, finetune
from noisystudent_core.stages import check
from tests.stages.small import Told


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_carries_its_name(name: str) -> None:
    assert RECIPES[name]().name == name


@pytest.mark.parametrize("name", RECIPES)
def test_shrink_shortens_every_fit(name: str) -> None:
    whole, small = RECIPES[name](), RECIPES[name](shrink=0.1)
    for learner, shorter in zip(learners(whole), learners(small), strict=True):
        images, fewer = (each.train.num_steps(20_000) * each.train.batch_size for each in (learner, shorter))
        assert fewer <= 0.11 * images


@pytest.mark.parametrize("name", RECIPES)
def test_students_follow_algorithm_1(name: str) -> None:
    config = RECIPES[name]()
    assert config.baselines and config.iterations
    assert not any(student.warm_start or student.checkpoint for student in config.iterations)
    for student in config.iterations:
        assert student.model.dropout > 0 and student.model.stochastic_depth > 0 and student.noise.crop != "none"
        assert student.noise.num_ops == 2 or name in ("imagenet_b0_reference", "imagenet_b1_reference")


@pytest.mark.parametrize("name", RECIPES)
def test_models_and_sizes_are_accepted(name: str) -> None:
    told = Told([])
    sizes = check(RECIPES[name](shrink=0.01), {}, "", told)
    assert sizes == sorted(sizes)
    assert told.events == []


@pytest.mark.parametrize("name", RECIPES)
def test_docstring_says_what_it_is_in_its_first_line(name: str) -> None:
    first = (RECIPES[name].__doc__ or "").splitlines()[0]
    assert first.endswith((".", ":")) and len(first) > 40


def learners(config: NoisyStudentConfig) -> list[LearnerConfig]:
    selector = [] if config.selector == "teacher" else [config.selector]
    return [config.teacher, *selector, *config.iterations]


def test_digits_come_with_the_checkout() -> None:
    sources = digits().sources.model_dump().values()
    assert all(Path(source).is_file() for source in sources)


def test_finetune_takes_a_backbone() -> None:
    config = finetune(model="resnet18.a1_in1k")
    assert {net.model.name for net in (config.teacher, *config.iterations)} == {"resnet18.a1_in1k"}
    assert config.teacher.model.pretrained


@pytest.mark.parametrize(
    ("shortcut", "value", "path"),
    [
        ("seed", 7, "seed"),
        ("student", "test_vit", "iterations.1.model.name"),
        ("unlabelled_ratio", 5, "iterations.0.pseudo_labels.unlabelled_ratio"),
        ("threshold", 0.0, "selection.threshold"),
        ("num_images_per_class", 50, "selection.num_images_per_class"),
    ],
)
def test_shortcut_is_an_override(shortcut: str, value: Any, path: str) -> None:
    tree: Any = configure("digits", **{shortcut: value}).model_dump(mode="json")
    for step in path.split("."):
        tree = tree[int(step) if step.isdigit() else step]
    assert tree == value


def test_every_shortcut_is_tested_and_none_changes_nothing() -> None:
    assert set(SHORTCUTS) == {"seed", "student", "unlabelled_ratio", "threshold", "num_images_per_class"}
    nothing: dict[str, Any] = dict.fromkeys(SHORTCUTS)
    assert configure("digits", **nothing) == digits()


def test_sources_that_are_given_replace_the_recipes() -> None:
    config = configure("digits", sources={"labelled": "s3://bucket/mine", "test": None})
    assert config.sources.labelled == "s3://bucket/mine"
    assert config.sources.test == digits().sources.test


@pytest.mark.parametrize("number", [1, 2, 4])
def test_iterations_are_cut_or_the_last_repeated(number: int) -> None:
    config = configure("digits", num_iterations=number, overrides={"iterations.0.train.steps": 3})
    assert len(config.iterations) == number
    assert [student.train.steps for student in config.iterations] == [3, *[500] * (number - 1)]


def test_shrink_is_passed_on() -> None:
    assert configure("digits", shrink=0.1) == digits(shrink=0.1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"recipe": "digit"}, "recipe 'digit': must be one of digits, finetune, cifar10, cifar10_wrn, "),
        ({"recipe": "digits", "num_iterations": 0}, "num_iterations=0: must be >= 1; the paper does three"),
        ({"recipe": "digits", "seed": 1, "overrides": {"seed": 2}}, "'seed' is given by a parameter and by overrides"),
        (
            {"recipe": "digits", "sources": {"test": "a"}, "overrides": {"sources.test": "b"}},
            "'sources.test' is given by a parameter and by overrides",
        ),
        ({"recipe": "digits", "threshold": 1.5}, "selection.threshold=1.5"),
        ({"recipe": "digits", "seed": "one"}, "seed='one'"),
    ],
)
def test_wrong_request_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        configure(**arguments)
    assert words in str(caught.value)
