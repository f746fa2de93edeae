"""The paper's ImageNet runs: METHOD's constants, in both scales of noise."""

from typing import Any

import pytest

from noisystudent_core.config import InputNoise, LearnerConfig, PseudoLabelConfig
from noisystudent_core.recipes import RECIPES, configure
from noisystudent_core.recipes.imagenet import imagenet_b0, imagenet_b2, imagenet_b7, imagenet_l2

NUM_LABELLED = 1_281_167
# pixels, epochs, epochs a stair, unlabelled ratio; the reference's dropout and magnitude (METHOD sections 3 and 4)
TABLE = {
    "b0": (224, 700, 4.8, 1, 0.2, None),
    "b1": (240, 700, 4.8, 3, 0.2, None),
    "b2": (260, 700, 4.8, 3, 0.3, 6),
    "b3": (300, 700, 4.8, 3, 0.3, 12),
    "b4": (380, 700, 4.8, 3, 0.4, 15),
    "b5": (456, 350, 2.4, 3, 0.4, 18),
    "b6": (528, 350, 2.4, 3, 0.5, 24),
    "b7": (600, 350, 2.4, 3, 0.5, 27),
}


def constants(learner: LearnerConfig) -> tuple[Any, ...]:
    train = learner.train
    return learner.model.name, learner.model.resolution_px, train.epochs, train.decay_epochs


def noise(learner: LearnerConfig) -> tuple[float, float | None]:
    magnitude = learner.noise.magnitude if learner.noise.num_ops else None
    return learner.model.dropout, magnitude


@pytest.mark.parametrize("size", TABLE)
def test_one_round_of_equal_nets(size: str) -> None:
    px, epochs, stair, ratio, *_ = TABLE[size]
    config = RECIPES[f"imagenet_{size}"]()
    (student,) = config.iterations
    for learner in (config.teacher, student):
        assert constants(learner) == (f"tf_efficientnet_{size}", px, epochs, pytest.approx(stair))
        assert noise(learner) == (0.5, 27)
        assert learner.model.crop_fraction == pytest.approx(px / (px + 32))
    assert student.pseudo_labels == PseudoLabelConfig(unlabelled_ratio=ratio)


@pytest.mark.parametrize("size", TABLE)
def test_reference_s_noise(size: str) -> None:
    config = RECIPES[f"imagenet_{size}_reference"]()
    assert {noise(learner) for learner in (config.teacher, *config.iterations)} == {TABLE[size][4:]}
    if size != "b0":
        assert isinstance(config.selector, LearnerConfig) and noise(config.selector) == (0.2, None)


def test_three_rounds_of_l2() -> None:
    config = imagenet_l2()
    assert constants(config.teacher) == ("tf_efficientnet_b7", 600, 350, pytest.approx(2.4))
    assert [constants(s) for s in config.iterations] == [("tf_efficientnet_l2", 475, 350, pytest.approx(2.4))] * 3
    assert [student.pseudo_labels.unlabelled_ratio for student in config.iterations] == [14, 14, 28]
    assert {noise(student) for student in config.iterations} == {(0.5, 27)}
    assert config.teacher.fix_resolution is None
    for student in config.iterations:
        assert student.fix_resolution is not None
        assert (student.fix_resolution.resolution_px, student.fix_resolution.train.epochs) == (800, 1.5)


@pytest.mark.parametrize("recipe", [imagenet_b2, imagenet_b7, imagenet_l2])
def test_b0_selects(recipe: Any) -> None:
    config = recipe()
    assert config.selector == imagenet_b0().teacher
    assert (config.selection.threshold, config.selection.num_images_per_class) == (0.3, 130_000)
    assert config.selection.balance == "uniform"
    assert imagenet_b0().selector == "teacher"


def test_what_every_size_shares() -> None:
    train = imagenet_b7().iterations[0].train
    optimizer = train.optimizer
    assert (optimizer.name, optimizer.learning_rate, optimizer.learning_rate_batch) == ("rmsprop", 0.128, 2048)
    assert (optimizer.decay, optimizer.momentum, optimizer.eps, optimizer.weight_decay) == (0.9, 0.9, 1e-3, 1e-5)
    assert (train.batch_size, train.schedule, train.decay_rate, train.warmup_epochs) == (
        *(2048, "step_exponential", 0.97, 5),
    )
    assert (train.ema_decay, train.batch_norm_momentum, train.label_smoothing) == (0.9999, 0.01, 0.1)
    assert (train.loss_weighting, train.batch_norm) == ("concat_mean", "joint")
    assert imagenet_b7().iterations[0].noise == InputNoise(dialect="google", num_ops=2, magnitude=27, crop="resized")
    assert imagenet_b7().iterations[0].model.stochastic_depth == 0.2
    assert train.num_steps(NUM_LABELLED) == 218_949


def test_shrink_keeps_the_shape_of_the_schedule() -> None:
    whole, small = imagenet_l2().iterations[0].train, imagenet_l2(shrink=0.01).iterations[0].train
    assert (whole.epochs or 0) / whole.decay_epochs == pytest.approx((small.epochs or 0) / small.decay_epochs)
    assert small.warmup_epochs == 0.05
    assert imagenet_l2(shrink=0.01).selection.num_images_per_class == 1300


def test_scale_of_noise_is_a_recipe_s_name() -> None:
    assert configure("imagenet_b2_reference") == imagenet_b2(noise_scale="reference")
    assert configure("imagenet_b2_reference", shrink=0.1) == imagenet_b2(0.1, noise_scale="reference")
    assert configure("imagenet_b2") == imagenet_b2()
