"""A fit's steps, validations, decoding and memory, worked out by hand."""

import pytest

from noisystudent_core.config import FitConfig, InputNoise, ModelConfig, OptimizerConfig, PseudoLabelConfig, TrainConfig
from noisystudent_core.planning.fits import Machine, fit_memory, fit_work, memory_note
from tests.planning.by_hand import GPU, images, nets


def config(ratio: float | None = None, **train: object) -> FitConfig:
    settings = {"epochs": 3, "batch_size": 100, "num_validations": 4, "optimizer": OptimizerConfig(name="sgd")}
    return FitConfig(
        num_classes=10,
        model=ModelConfig(name="test_resnet", resolution_px=32, crop_fraction=1.0),
        train=TrainConfig.model_validate(settings | train),
        noise=InputNoise(crop="translate"),
        pseudo_labels=None if ratio is None else PseudoLabelConfig(unlabelled_ratio=ratio),
    )


def amounts(config: FitConfig, machine: Machine = GPU) -> tuple[list[float], bool]:
    selected = images(5000) if config.pseudo_labels else None
    work, overlaps = fit_work(config, images(1000), images(200), selected, machine)
    return [one.amount for one in work], overlaps


def test_epochs_count_labelled_images() -> None:
    """3 epochs x 1,000 images = 30 steps of 100; 4 validations of 200; both sets decoded once."""
    assert amounts(config()) == ([3000, 800, 200, 1000], False)


def test_a_student_sees_unlabelled_images_in_each_step() -> None:
    """30 steps of 100 + 700; 5,000 selected images are decoded, too, whatever the ratio."""
    assert amounts(config(7.0)) == ([24_000, 800, 200, 1000, 5000], False)
    assert amounts(config(1.0)) == ([6000, 800, 200, 1000, 5000], False)


def test_steps_stand_instead_of_epochs() -> None:
    assert amounts(config(epochs=None, steps=50))[0][0] == 5000


def test_what_does_not_fit_into_memory_is_streamed() -> None:
    """1,000 images of 3 x 32 x 32 bytes are 3.1 MB, 5,000 are 15.4 MB; half the memory is theirs."""
    small = Machine(1, 2 * 3.2e6, False)
    assert amounts(config(7.0), small) == ([24_000, 800, 200, 1000, 30 * 700], True)


@pytest.mark.parametrize(
    ("settings", "is_cpu", "expected"),
    [
        ({}, True, 4e6 * 4 + 100 * 500_000 * 4),  # weight, gradient, average and momentum; float32
        ({}, False, 4e6 * 4 + 100 * 500_000 * 2),  # bfloat16
        ({"optimizer": OptimizerConfig()}, True, 4e6 * 5 + 100 * 500_000 * 4),  # RMSProp keeps two
        ({"micro_batches": 4}, True, 4e6 * 4 + 25 * 500_000 * 4),
    ],
)
def test_memory(settings: dict[str, object], is_cpu: bool, expected: float) -> None:
    assert fit_memory(config(None, **settings), nets, Machine(1, 1e12, is_cpu)) == expected


def test_too_little_memory_is_said_with_the_remedy() -> None:
    """216 MB are needed; 16 MB are weights; 200 MB of outputs fit into 50 MB in four goes."""
    assert memory_note(config(), nets, Machine(1, 217e6, True), "teacher") == ""
    said = memory_note(config(), nets, Machine(1, 66e6, True), "teacher")
    assert said == "about 0 GB, a device has 0: set teacher.train.micro_batches=4"
    assert "do not help" in memory_note(config(), nets, Machine(1, 10e6, True), "teacher")
