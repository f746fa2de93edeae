"""What only the models can tell about a configuration, before an image is read."""

from typing import Any

import pytest

from noisystudent_core.config import InputNoise, LearnerConfig, ModelConfig
from noisystudent_core.errors import ConfigurationError, SourceError
from noisystudent_core.recipes import configure, digits, finetune
from noisystudent_core.stages import check
from noisystudent_core.storage.manifest import publish_manifest
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


def test_unbalanced_selection_with_a_target_is_told() -> None:
    told = Told([])
    check(configure("digits", overrides={"selection.balance": "none"}), {}, "", told)
    assert [fields["text"][:15] for _, fields in told.events] == ['balance="none":']


def given_checkpoint(root: str, name: str = LARGE, num_classes: int = 10) -> str:
    """What the check reads of a checkpoint: its manifest."""
    config = digits().fit_teacher()
    config = config.model_copy(
        update={"num_classes": num_classes, "model": config.model.model_copy(update={"name": name})}
    )
    publish_manifest(root, config, {}, (), facts={"num_parameters": 123})
    return root


def test_size_of_a_given_checkpoint_is_in_its_manifest(memory_root: str) -> None:
    config = configure("digits", overrides={"teacher.checkpoint": given_checkpoint(memory_root)})
    assert check(config, {}, "") == [123, 373_658, 373_658]


def test_given_checkpoint_of_other_classes_is_refused(memory_root: str) -> None:
    config = configure("digits", overrides={"teacher.checkpoint": given_checkpoint(memory_root, num_classes=9)})
    with pytest.raises(ConfigurationError, match=r"has 9 classes, the data have data\.num_classes=10"):
        check(config, {}, "")


def test_given_checkpoint_that_is_not_there_is_refused(root: str) -> None:
    with pytest.raises(SourceError, match=r"no manifest\.json there"):
        check(configure("digits", overrides={"teacher.checkpoint": root}), {}, "")


def test_published_head_must_have_the_data_s_classes() -> None:
    published = {"teacher.model.name": "resnet18.a1_in1k", "teacher.model.pretrained": True}
    overrides = {**published, "teacher.checkpoint": "pretrained", "allow_smaller_student": True}
    with pytest.raises(
        ConfigurationError, match=r"'resnet18\.a1_in1k' comes with a head of 1000 classes, the data.* 10"
    ):
        check(configure("digits", overrides=overrides), {}, "")
    overrides["data.num_classes"] = 1000
    assert check(configure("digits", overrides=overrides), {}, "")[0] == 11_689_512


def test_released_weights_of_the_paper_can_teach() -> None:
    name = "tf_efficientnet_b0.ns_jft_in1k"
    overrides = {"teacher.model.name": name, "teacher.model.pretrained": True, "teacher.checkpoint": "pretrained"}
    assert check(configure("imagenet_b0", overrides=overrides), {}, "") == [5_288_548] * 2


def test_warm_start_is_for_equal_nets(memory_root: str) -> None:
    warm = {"iterations.*.warm_start": True}
    check(configure("digits", overrides=warm), {}, "")
    with pytest.raises(
        ConfigurationError, match=r"iterations\.0\.warm_start=True: student 1 is test_resnet, its teach"
    ):
        check(configure("digits", overrides=warm | {"teacher.model.name": SMALL}), {}, "")
    other = {"teacher.checkpoint": given_checkpoint(memory_root, name="test_convnext.r160_in1k")}
    with pytest.raises(ConfigurationError, match="its teacher test_convnext;"):
        check(configure("digits", overrides=warm | other), {}, "")


def test_batch_norm_over_processes_is_refused_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    settings = {"iterations.0.train.sync_batch_norm": True}
    with pytest.raises(ConfigurationError, match=r"train\.sync_batch_norm=True on cpu: torch synchronises batch norm"):
        check(configure("digits", overrides=settings), {}, "")
