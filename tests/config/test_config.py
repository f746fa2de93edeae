"""The defaults are the paper's, and contradictions are refused where they are written."""

from typing import Any

import pytest
from pydantic import ValidationError

from noisystudent_core.config import (
    SPLITS,
    DataConfig,
    FitConfig,
    InputNoise,
    IterationConfig,
    LearnerConfig,
    ModelConfig,
    NoisyStudentConfig,
    PredictConfig,
    Sources,
    StageSettings,
    TeacherNoise,
    TrainConfig,
    apply_overrides,
)
from noisystudent_core.config.settings import PartSettings
from noisystudent_core.recipes import RECIPES

PAPER = NoisyStudentConfig(name="paper", iterations=(IterationConfig(),))

NOISE = TeacherNoise(input_noise=InputNoise(), dropout=0.5, stochastic_depth=0.2, seed=0)

# dotted path -> the constant, and where it stands
CONSTANTS = {
    "selection.threshold": 0.3,  # 3.1 "Data filtering and balancing"
    "selection.num_images_per_class": 130_000,
    "selection.balance": "uniform",
    "selection.max_copies": None,
    "data.num_classes": 1000,
    "iterations.0.model.dropout": 0.5,  # 3.1 "Noise"
    "iterations.0.model.stochastic_depth": 0.2,  # survival 0.8 at the last block
    "iterations.0.model.pretrained": False,
    "iterations.0.noise.num_ops": 2,
    "iterations.0.noise.magnitude": 27,
    "iterations.0.pseudo_labels.unlabelled_ratio": 14,  # 3.1 "Iterative training"
    "iterations.0.pseudo_labels.labels": "soft",
    "iterations.0.pseudo_labels.temperature": 1,
    "iterations.0.train.epochs": 350,  # 3.1 "Training details"
    "iterations.0.train.steps": None,
    "iterations.0.train.batch_size": 2048,
    "iterations.0.train.loss_weighting": "concat_mean",  # 3.1: "concatenated together to compute the average"
    "iterations.0.train.label_smoothing": 0.1,
    "iterations.0.train.schedule": "step_exponential",
    "iterations.0.train.warmup_epochs": 5,
    "iterations.0.train.decay_epochs": 2.4,
    "iterations.0.train.decay_rate": 0.97,
    "iterations.0.train.ema_decay": 0.9999,
    "iterations.0.train.batch_norm_momentum": pytest.approx(1 - 0.99),
    "iterations.0.train.optimizer.name": "rmsprop",
    "iterations.0.train.optimizer.learning_rate": 0.128,
    "iterations.0.train.optimizer.learning_rate_batch": 2048,
    "iterations.0.train.optimizer.decay": 0.9,
    "iterations.0.train.optimizer.momentum": 0.9,
    "iterations.0.train.optimizer.eps": 1e-3,
    "iterations.0.train.optimizer.weight_decay": 1e-5,
    "iterations.0.train.optimizer.layer_decay": 1,
    "iterations.0.pseudo_labels.noise": None,  # 3.1 "Noise": labelled and unlabelled images alike
    "iterations.0.pseudo_labels.model_noise": True,
    "noised_teacher": False,  # Algorithm 1, step 2: "a not noised teacher"
    "allow_smaller_student": False,  # Algorithm 1, step 3: "equal-or-larger"
    "baselines": True,
}


def setting(path: str) -> Any:
    value: Any = PAPER
    for step in path.split("."):
        value = value[int(step)] if step.isdigit() else getattr(value, step)
    return value


@pytest.mark.parametrize("path", CONSTANTS)
def test_default_is_the_papers(path: str) -> None:
    assert setting(path) == CONSTANTS[path]


def test_teacher_is_noised_and_trained_as_students_are() -> None:
    assert PAPER.teacher == LearnerConfig()
    assert PAPER.iterations[0].train == PAPER.teacher.train
    assert PAPER.iterations[0].noise == PAPER.teacher.noise


def test_stage_settings_repeat_the_defaults_of_the_run() -> None:
    select, prepare = PAPER.select(), PAPER.prepare("test")
    assert (select.threshold, select.num_images_per_class) == (0.3, 130_000)
    assert type(select)() == select
    assert prepare.max_bad_fraction == type(prepare)().max_bad_fraction
    assert prepare.ingest.images_per_part == type(prepare.ingest)().images_per_part


def test_student_may_learn_pseudo_labels_first_and_labelled_images_after() -> None:
    assert PAPER.fit_finetune(1) is None
    finetune = TrainConfig(epochs=5)
    config = PAPER.model_copy(update={"iterations": (PAPER.iterations[0].model_copy(update={"finetune": finetune}),)})
    first, second = config.fit_student(1), config.fit_finetune(1)
    assert second is not None
    assert (first.train.loss_weighting, first.train.epochs) == ("unlabelled_only", PAPER.iterations[0].train.epochs)
    assert first.pseudo_labels is not None and second.pseudo_labels is None
    assert second.train == finetune
    assert len({first.seed, second.seed, config.fit_baseline(1).seed}) == 3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"checkpoint": "s3://bucket/net"}, "a student is always fitted; make it the teacher"),
        ({"warm_start": True, "model": ModelConfig(pretrained=True)}, "two beginnings; keep one"),
    ],
)
def test_students_are_fitted_from_one_beginning(settings: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        IterationConfig(**settings)


def test_weights_that_are_taken_as_they_are_must_be_named() -> None:
    with pytest.raises(ValueError, match='checkpoint="pretrained": model names no weights'):
        LearnerConfig(checkpoint="pretrained")
    model = ModelConfig(name="tf_efficientnet_b0.ns_jft_in1k", pretrained=True)
    config = PAPER.model_copy(update={"teacher": LearnerConfig(model=model, checkpoint="pretrained")})
    assert config.fit_teacher().without_fit().model == model


def _all_kinds(kind: Any) -> set[Any]:
    """The classes of settings that stages have, without those that only others are made of."""
    below = kind.__subclasses__()
    return {kind}.union(*map(_all_kinds, below)) - {StageSettings, PartSettings} if below else {kind}


def test_every_stage_says_what_it_is() -> None:
    kinds = [kind for kind in _all_kinds(StageSettings) if kind.__module__.startswith("noisystudent_core")]
    assert len(kinds) == 16
    assert len({kind.stage for kind in kinds}) == len(kinds)
    assert all(kind.kind and kind.version >= 1 for kind in kinds)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ModelConfig(pretrained=True, weights="net.safetensors"), "two origins; keep one"),
        (lambda: TrainConfig(epochs=1, steps=1), "give one of them"),
        (lambda: TrainConfig(epochs=None), "give one of them"),
        (lambda: DataConfig(num_classes=3, class_names=("cat", "dog")), "2 class_names: must be num_classes=3"),
        (lambda: ModelConfig(resolution=32), "Extra inputs are not permitted"),  # type: ignore[call-arg]
        (lambda: InputNoise(magnitude=float("nan")), "finite number"),
        (lambda: PredictConfig(keep="label", noise=NOISE), "never the selector; leave noise out"),
        (lambda: NoisyStudentConfig(name="none", iterations=()), "at least 1 item"),
        (lambda: PAPER.model_validate(PAPER.model_dump() | {"selection": {"balance": {1000: 5}}}), "classes are 0 to"),
    ],
)
def test_contradictions_are_refused(build: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        build()


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        PAPER.seed = 1


def test_epochs_count_labelled_images() -> None:
    assert TrainConfig(epochs=2, batch_size=50).num_steps(num_labelled=1000) == 40
    assert TrainConfig(epochs=None, steps=7).num_steps(num_labelled=1000) == 7
    assert TrainConfig(batch_size=50).to_steps(0.001, 1000) == 1
    assert TrainConfig().to_steps(0, 1000) == 0


def test_labelled_set_is_divided_only_without_a_validation_source() -> None:
    divided = PAPER.model_copy(update={"sources": Sources(labelled="a", unlabelled="b"), "seed": 3})
    given = PAPER.model_copy(update={"sources": Sources(labelled="a", unlabelled="b", validation="c"), "seed": 3})
    shares = {split: divided.prepare(split).share for split in SPLITS}
    assert shares == {"labelled": "training", "unlabelled": "all", "validation": "validation", "test": "all"}
    assert (divided.source("validation"), given.source("validation")) == ("a", "c")
    assert {given.prepare(split).share for split in SPLITS} == {"all"}


def test_seed_does_not_move_images_that_are_not_divided() -> None:
    given = PAPER.model_copy(update={"sources": Sources(labelled="a", validation="c")})
    assert given.prepare("labelled") == given.model_copy(update={"seed": 9}).prepare("labelled")


def test_unlabelled_labels_are_not_read() -> None:
    classes = {split: PAPER.prepare(split).ingest.num_classes for split in SPLITS}
    assert classes == {"labelled": 1000, "unlabelled": None, "validation": 1000, "test": 1000}


def test_each_role_of_a_run_has_its_own_seed() -> None:
    config = PAPER.model_copy(update={"iterations": PAPER.iterations * 3, "selector": LearnerConfig()})
    selector = config.fit_selector()
    assert selector is not None
    fits = [config.fit_teacher(), selector, *map(config.fit_student, config.student_iterations)]
    assert len({fit.seed for fit in fits}) == len(fits) == 5
    assert config.fit_teacher().seed != config.model_copy(update={"seed": 1}).fit_teacher().seed


def test_equal_nets_share_one_baseline() -> None:
    config = PAPER.model_copy(update={"iterations": PAPER.iterations * 2})
    assert config.fit_baseline(1) == config.fit_baseline(2)
    assert config.fit_baseline(1).pseudo_labels is None
    assert config.fit_student(1) != config.fit_student(2)


def test_teacher_selects_by_default() -> None:
    assert PAPER.fit_selector() is None


def test_iterations_are_counted_from_one() -> None:
    config = PAPER.model_copy(update={"iterations": PAPER.iterations * 2})
    assert (list(config.student_iterations), list(config.baseline_iterations)) == ([1, 2], [1, 2])
    assert not config.model_copy(update={"baselines": False}).baseline_iterations


@pytest.mark.parametrize("recipe", RECIPES)
def test_configuration_survives_json(recipe: str) -> None:
    config = RECIPES[recipe]()
    assert NoisyStudentConfig.model_validate_json(config.model_dump_json()) == config


def test_balance_by_mapping_survives_json() -> None:
    tree = PAPER.model_dump() | {"selection": {"balance": {3: 50}}}
    config = NoisyStudentConfig.model_validate(tree)
    again = NoisyStudentConfig.model_validate_json(config.model_dump_json())
    assert again.select().balance == {3: 50}


def test_fit_needs_its_model() -> None:
    with pytest.raises(ValidationError, match="Field required"):
        FitConfig(num_classes=3)  # type: ignore[call-arg]


def test_teachers_label_without_noise() -> None:
    config = PAPER.model_copy(update={"iterations": PAPER.iterations * 2})
    assert config.teach(1) == config.teach(2) == config.predict("distribution")
    assert config.predict("distribution").noise is None


def test_noised_teachers_label_under_the_noise_of_their_own_fit_and_the_selector_under_none() -> None:
    student = IterationConfig(model=ModelConfig(dropout=0.4), noise=InputNoise(magnitude=9))
    config = PAPER.model_copy(update={"iterations": (student, *PAPER.iterations), "noised_teacher": True})
    first, second = config.teach(1).noise, config.teach(2).noise
    assert first is not None and second is not None
    assert (first.input_noise, first.dropout, first.stochastic_depth) == (InputNoise(), 0.5, 0.2)
    assert (second.input_noise, second.dropout, second.stochastic_depth) == (InputNoise(magnitude=9), 0.4, 0.2)
    other = config.model_copy(update={"seed": 1}).teach(1).noise
    assert other is not None
    assert len({first.seed, second.seed, other.seed}) == 3
    assert config.teach(1).model_copy(update={"noise": None}) == config.predict("distribution")
    assert config.predict("label").noise is None


def test_noise_of_unlabelled_images_is_a_setting_of_the_student_alone() -> None:
    noise = {"num_ops": 0, "crop": "translate"}
    config = apply_overrides(PAPER, {"iterations.*.pseudo_labels.noise": noise, "seed": 3})
    student, baseline = config.fit_student(1), config.fit_baseline(1)
    assert student.pseudo_labels is not None
    assert student.pseudo_labels.noise == InputNoise(num_ops=0, crop="translate")
    assert student.noise == baseline.noise == InputNoise()
    assert baseline == PAPER.model_copy(update={"seed": 3}).fit_baseline(1)
