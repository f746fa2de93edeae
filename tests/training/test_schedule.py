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


@pytest.mark.parametrize(("step", "expected"), [(119, 0.128 * 0.97**2), (120, 0.128 * 0.97**2), (144, 0.128 * 0.97**3)])
def test_smaller_models_decay_every_4_8_epochs(step: int, expected: float) -> None:
    assert rate(step, decay_epochs=4.8, epochs=700) == pytest.approx(expected)


def test_rate_is_scaled_linearly_to_the_batch() -> None:
    assert rate(199, batch_size=512) == pytest.approx(0.032)  # 40 steps an epoch, the end of the warm-up
    per_256 = OptimizerConfig(learning_rate=0.016, learning_rate_batch=256)
    assert rate(49, optimizer=per_256) == pytest.approx(0.128)


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
