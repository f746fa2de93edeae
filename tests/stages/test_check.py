"""What only the models can tell about a configuration, before an image is read."""

from typing import Any

import pytest

from noisystudent_core.config import InputNoise, LearnerConfig, ModelConfig
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.recipes import configure, digits, finetune
from noisystudent_core.stages import check
from tests.stages.small import Told

SMALL, LARGE = "test_efficientnet", "test_resnet"  # 0.1M and 0.4M parameters


def test_parameters_of_the_teacher_and_of_each_student() -> None:
    assert check(digits(), {}, "") == [373_658] * 3
    assert check(configure("digits", num_iterations=1, overrides={"teacher.model.name": SMALL}), {}, "") == [
        101_766,
        373_658,
    ]


def test_published_weights_are_not_looked_up() -> None:
    assert len(check(finetune(), {}, "")) == 3


def test_smaller_student_is_refused_unless_allowed() -> None:
    smaller = {"iterations.1.model.name": SMALL}
    with pytest.raises(ConfigurationError, match=r"student 2 \(test_efficientnet\) has 101,.*its teacher 373,"):
        check(configure("digits", overrides=smaller), {}, "")
    check(configure("digits", overrides=smaller | {"allow_smaller_student": True}), {}, "")


@pytest.mark.parametrize("place", ["teacher.model.name", "iterations.1.model.name"])
def test_unknown_model_is_named(place: str) -> None:
    with pytest.raises(ConfigurationError, match=r"model 'test_resnext': .*similar: test_resnet"):
        check(configure("digits", overrides={place: "test_resnext"}), {}, "")


def test_unknown_selector_and_tag_are_named() -> None:
    selector = LearnerConfig(model=ModelConfig(name="test_resnet.nobody"))
    with pytest.raises(ConfigurationError, match=r"'test_resnet\.nobody'.*no such tag"):
        check(digits().model_copy(update={"selector": selector}), {}, "")


TOO_STRONG = {"dialect": "torchvision", "num_ops": 1, "magnitude": 31}


@pytest.mark.parametrize("place", ["teacher.noise", "iterations.1.noise", "iterations.1.pseudo_labels.noise"])
def test_magnitude_outside_the_dialect_is_named(place: str) -> None:
    with pytest.raises(ConfigurationError, match=r"magnitude=31.0: must be a whole number in \[0, 30\]"):
        check(configure("digits", overrides={place: TOO_STRONG}), {}, "")


def test_selector_s_noise_is_checked() -> None:
    selector = digits().teacher.model_copy(update={"noise": InputNoise.model_validate(TOO_STRONG)})
    with pytest.raises(ConfigurationError, match=r"magnitude=31.0"):
        check(digits().model_copy(update={"selector": selector}), {}, "")


NO_NOISE = {
    "teacher.noise": {"num_ops": 0, "crop": "none", "flip": False},
    "teacher.model.dropout": 0,
    "teacher.model.stochastic_depth": 0,
}


def test_noised_teacher_without_noise_is_told() -> None:
    told = Told([])
    check(configure("digits", overrides={"noised_teacher": True} | NO_NOISE), {}, "", told)
    ((event, fields),) = told.events
    assert event == "message"
    assert fields["text"].startswith("noised_teacher=True: the teacher of student 1 is fitted without any noise")


@pytest.mark.parametrize("overrides", [{"noised_teacher": True}, NO_NOISE])
def test_settings_that_have_an_effect_are_not_told(overrides: dict[str, Any]) -> None:
    told = Told([])
    check(configure("digits", overrides=overrides), {}, "", told)
    assert told.events == []
