"""The learning rate of METHOD section 4, at steps worked out by hand."""

from typing import Any

import pytest

from noisystudent_core.config import OptimizerConfig, TrainConfig
from noisystudent_core.training.schedule import learning_rate

NUM_LABELLED = 20_480  # ten steps an epoch at the paper's batch of 2048


def rate(step: int, **settings: Any) -> float:
    return learning_rate(TrainConfig(**settings), step, NUM_LABELLED)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.00256),  # warm-up over 5 epochs: 1/50 of 0.128
        (1, 0.00512),
        (24, 0.064),
        (49, 0.128),
        (50, 0.1204352),  # x 0.97 every 2.4 epochs = 24 steps, counted from step 0: 50 // 24 = 2
        (71, 0.1204352),
        (72, 0.116822144),
        (240, 0.0943902882),  # 0.97^10
        (1000, 0.0367156376),  # 0.97^41
        (3499, 0.0015456510),  # the last of 350 epochs: 0.97^145
    ],
)
def test_the_paper_s_rate(step: int, expected: float) -> None:
    assert rate(step) == pytest.approx(expected, rel=1e-8)


IMAGENET = 1_281_167  # labelled images: 625.57 steps an epoch at batch 2048
B7 = TrainConfig()
B4 = TrainConfig(epochs=700, decay_epochs=4.8)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.128 / 3128),  # 5 epochs are 3127.85 steps
        (1563, 0.064),
        (3127, 0.128),
        (3128, 0.1204352),  # 2.4 epochs are 1501.37 steps: the second stair
        (4504, 0.1204352),  # the third begins after 4504.10
        (4505, 0.116822144),
        (15_014, 0.0943902882),  # the tenth, after 15013.68
        (150_136, 0.00627497012),  # the 99th: counted in whole steps, of 1501, it would be the 100th
        (150_137, 0.00608672101),
        (218_948, 0.00154565100),  # the last of 350 epochs: the 145th
    ],
)
def test_b7_s_rate_on_imagenet(step: int, expected: float) -> None:
    assert B7.num_steps(IMAGENET) == 218_949
    assert learning_rate(B7, step, IMAGENET) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.128 / 3128),
        (781, 0.032),
        (3127, 0.128),
        (3128, 0.12416),  # 4.8 epochs are 3002.74 steps
        (6005, 0.12416),
        (6006, 0.1204352),  # the second stair, after 6005.47
        (30_027, 0.0973095755),
        (30_028, 0.0943902882),  # the tenth, after 30027.35
        (300_274, 0.00608672101),  # the 100th, after 300273.52
        (437_898, 0.00154565100),  # the last of 700 epochs
    ],
)
def test_b4_s_rate_on_imagenet(step: int, expected: float) -> None:
    assert B4.num_steps(IMAGENET) == 437_899
    assert learning_rate(B4, step, IMAGENET) == pytest.approx(expected, rel=1e-8)


def test_shrunk_recipe_ends_at_the_same_rate() -> None:
    shrunk = TrainConfig(epochs=3.5, warmup_epochs=0.05, decay_epochs=0.024)
    last = shrunk.num_steps(NUM_LABELLED) - 1
    assert learning_rate(shrunk, last, NUM_LABELLED) == pytest.approx(0.128 * 0.97**141)  # 34 of 35 steps: 141.67


@pytest.mark.parametrize(("step", "expected"), [(119, 0.128 * 0.97**2), (120, 0.128 * 0.97**2), (144, 0.128 * 0.97**3)])
def test_smaller_models_decay_every_4_8_epochs(step: int, expected: float) -> None:
    assert rate(step, decay_epochs=4.8, epochs=700) == pytest.approx(expected)


def test_rate_is_scaled_linearly_to_the_batch() -> None:
    assert rate(199, batch_size=512) == pytest.approx(0.032)  # 40 steps an epoch, the end of the warm-up
    per_256 = OptimizerConfig(learning_rate=0.016, learning_rate_batch=256)
    assert rate(49, optimizer=per_256) == pytest.approx(0.128)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 1.0),
        (10, 0.98296291),  # (1 + cos 15 degrees) / 2
        (20, 0.93301270),  # 30
        (30, 0.85355339),  # 45
        (40, 0.75),
        (60, 0.5),
        (80, 0.25),
        (90, 0.14644661),
        (100, 0.06698730),
        (119, 0.00017133),  # 178.5
    ],
)
def test_cosine_of_120_steps(step: int, expected: float) -> None:
    settings = TrainConfig(epochs=None, steps=120, warmup_epochs=0, schedule="cosine")
    assert learning_rate(settings, step, NUM_LABELLED) == pytest.approx(0.128 * expected, rel=1e-4)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.1),
        (1, 0.1),
        (7324, 0.1),
        (14_648, 0.1),  # half of 29,297 steps is 14648.5
        (14_649, 0.01),
        (18_310, 0.01),
        (21_972, 0.01),  # three quarters are 21972.75
        (21_973, 0.001),
        (25_000, 0.001),
        (29_296, 0.001),
    ],
)
def test_steps_are_a_tenth_at_half_and_at_three_quarters(step: int, expected: float) -> None:
    optimizer = OptimizerConfig(name="sgd", learning_rate=0.1, learning_rate_batch=64)
    train = TrainConfig(
        epochs=None,
        steps=29_297,
        batch_size=64,
        optimizer=optimizer,
        schedule="steps",
        decay_rate=0.1,
        warmup_epochs=0,
    )
    assert learning_rate(train, step, 5000) == pytest.approx(expected, rel=1e-12)


def test_steps_have_their_warm_up_and_their_own_milestones() -> None:
    settings = {"epochs": 10, "schedule": "steps", "warmup_epochs": 1, "decay_rate": 0.5, "milestones": (0.05, 0.9)}
    rates = [rate(step, **settings) / 0.128 for step in (0, 9, 10, 89, 90, 99)]
    assert rates == pytest.approx([0.1, 1.0, 0.5, 0.5, 0.25, 0.25])


@pytest.mark.parametrize("milestones", [(0.75, 0.5), (0.5, 0.5), (0.0,), (1.0,)])
def test_milestones_ascend_within_the_fit(milestones: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="milestones"):
        TrainConfig(milestones=milestones)


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.064), (1, 0.128), (2, 0.128), (4, 0.109254834), (6, 0.064), (9, 0.0048717101)]
)
def test_cosine_goes_to_zero_at_the_end(step: int, expected: float) -> None:
    found = rate(step, epochs=1, warmup_epochs=0.2, schedule="cosine")
    assert found == pytest.approx(expected, rel=1e-7)


def test_durations_are_epochs_of_labelled_images_or_steps() -> None:
    assert TrainConfig().num_steps(NUM_LABELLED) == 3500
    assert TrainConfig(epochs=None, steps=7).num_steps(NUM_LABELLED) == 7
    assert TrainConfig(epochs=0.001).num_steps(NUM_LABELLED) == 1
    assert rate(0, warmup_epochs=0) == 0.128
