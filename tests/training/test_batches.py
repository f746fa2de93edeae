"""What a step sees: the ratio, the right targets, and a function of seed and step alone."""

from collections import Counter
from dataclasses import astuple
from typing import Any

import pytest
import torch

from noisystudent_core.config import InputNoise, PseudoLabelConfig
from noisystudent_core.training.step import Batch
from tests.training.small import PseudoLabelledImages, fit_config, labelled, numbers, pseudo_labelled, resident

NOISE = InputNoise(dialect="torchvision", num_ops=1, magnitude=10, crop="translate", crop_padding_px=2, flip=True)
WHOLE = InputNoise(num_ops=0, crop="none", flip=False)
STANDARD = InputNoise(num_ops=0, crop="translate", crop_padding_px=2, flip=True)


def same(first: Batch, second: Batch) -> bool:
    assert first.targets_UC is not None and second.targets_UC is not None
    return (
        torch.equal(first.images, second.images)
        and torch.equal(first.labels_L, second.labels_L)
        and torch.equal(first.targets_UC, second.targets_UC)
    )


@pytest.mark.parametrize(("ratio", "num_unlabelled"), [(1, 4), (1.5, 6), (3, 12), (14, 56)])
def test_every_batch_keeps_the_ratio(ratio: float, num_unlabelled: int) -> None:
    config = fit_config(pseudo_labels=PseudoLabelConfig(unlabelled_ratio=ratio))
    batches = resident(config, labelled(), pseudo_labelled())
    for step in range(5):
        batch = batches(step)
        shown = numbers(batch.images)
        assert len(shown) == 4 + num_unlabelled
        assert max(shown[:4]) < 100 <= min(shown[4:])  # labelled ones first
        assert batch.targets_UC is not None and batch.targets_UC.shape == (num_unlabelled, 3)


def test_labels_and_targets_belong_to_their_images() -> None:
    config = fit_config(pseudo_labels=PseudoLabelConfig(unlabelled_ratio=3))
    batch = resident(config, labelled(), pseudo_labelled())(0)
    shown = numbers(batch.images)
    assert batch.labels_L.tolist() == [number % 3 for number in shown[:4]]
    assert batch.targets_UC is not None
    assert batch.targets_UC.argmax(1).tolist() == [(number - 100) % 3 for number in shown[4:]]


@pytest.mark.parametrize(
    ("pseudo_labels", "highest", "other"),
    [
        (PseudoLabelConfig(unlabelled_ratio=1), 0.8, 0.1),
        (PseudoLabelConfig(unlabelled_ratio=1, temperature=0.5), 0.64 / 0.66, 0.01 / 0.66),
        (PseudoLabelConfig(unlabelled_ratio=1, labels="hard"), 0.9 + 0.1 / 3, 0.1 / 3),
    ],
)
def test_targets_are_soft_sharpened_or_hard(pseudo_labels: PseudoLabelConfig, highest: float, other: float) -> None:
    config = fit_config(pseudo_labels=pseudo_labels, label_smoothing=0.1)
    targets = resident(config, labelled(), pseudo_labelled())(0).targets_UC
    assert targets is not None
    torch.testing.assert_close(targets.sort(1).values, torch.tensor([[other, other, highest]]).expand(4, 3))


def test_batches_are_a_function_of_seed_and_step() -> None:
    config = fit_config(noise=NOISE, pseudo_labels=PseudoLabelConfig(unlabelled_ratio=2))
    forward, backward = (resident(config, labelled(), pseudo_labelled()) for _ in range(2))
    in_order = [forward(step) for step in range(8)]
    in_reverse = [backward(step) for step in reversed(range(8))][::-1]
    assert all(map(same, in_order, in_reverse))
    assert not any(same(in_order[0], batch) for batch in in_order[1:])
    other = resident(config.model_copy(update={"seed": 1}), labelled(), pseudo_labelled())
    assert not same(other(0), in_order[0])


def test_noise_is_drawn_anew_each_time_an_image_is_seen() -> None:
    batches = resident(fit_config(noise=NOISE, batch_size=1), labelled(1), None)
    assert len({batches(step).images.numpy().tobytes() for step in range(6)}) == 6


def test_each_pass_shows_every_image_as_often_as_its_copies_say() -> None:
    copies = [1, 3, 0, 2]  # six in a pass
    config = fit_config(batch_size=3, pseudo_labels=PseudoLabelConfig(unlabelled_ratio=2))
    batches = resident(config, labelled(9), pseudo_labelled(4, copies))
    for step in range(3):
        assert Counter(numbers(batches(step).images)[3:]) == {100: 1, 101: 3, 103: 2}
    shown = [number for step in range(3) for number in numbers(batches(step).images)[:3]]
    assert sorted(shown) == list(range(9))


def test_more_images_a_step_than_there_are_start_the_next_pass() -> None:
    shown = numbers(resident(fit_config(batch_size=8), labelled(3), None)(0).images)
    assert Counter(shown[:3]) == Counter(shown[3:6]) == {0: 1, 1: 1, 2: 1}


def test_fit_on_labelled_images_alone_has_no_targets() -> None:
    batch = resident(fit_config(), labelled(), None)(0)
    assert batch.targets_UC is None
    assert len(batch.images) == len(batch.labels_L) == 4


# the noise of the unlabelled images apart (table 6)


def batch_of(noise: InputNoise | None = None, step: int = 1, **pseudo_labels: Any) -> Batch:
    apart = PseudoLabelConfig(unlabelled_ratio=2, noise=noise, **pseudo_labels)
    return resident(fit_config(noise=NOISE, pseudo_labels=apart), labelled(), pseudo_labelled())(step)


def test_unlabelled_images_are_noised_as_the_labelled_ones_unless_told_otherwise() -> None:
    assert same(batch_of(None), batch_of(NOISE))


def test_unlabelled_images_without_noise_beside_labelled_ones_as_before() -> None:
    with_noise, without = batch_of(), batch_of(WHOLE)
    assert torch.equal(without.images[:4], with_noise.images[:4])
    shown = [number - 100 for number in numbers(without.images[4:])]
    assert torch.equal(without.images[4:], pseudo_labelled().images[shown])
    assert not torch.equal(with_noise.images[4:], without.images[4:])


def test_unlabelled_images_with_standard_augmentation_draw_as_labelled_ones_of_their_place_would() -> None:
    apart = PseudoLabelConfig(unlabelled_ratio=2)
    everywhere = resident(fit_config(noise=STANDARD, pseudo_labels=apart), labelled(), pseudo_labelled())(1)
    found = batch_of(STANDARD)
    assert torch.equal(found.images[4:], everywhere.images[4:])
    assert torch.equal(found.images[:4], batch_of().images[:4])


def test_the_two_kinds_of_images_may_be_kept_at_different_sizes() -> None:
    pseudo = pseudo_labelled()
    larger = PseudoLabelledImages(torch.nn.functional.pad(pseudo.images, (2, 3, 2, 3)), *astuple(pseudo)[1:])
    boxes = InputNoise(num_ops=0, crop="resized", flip=False)
    config = fit_config(noise=NOISE, pseudo_labels=PseudoLabelConfig(unlabelled_ratio=2, noise=boxes))
    batch = resident(config, labelled(), larger)(1)
    assert batch.images.shape == (12, 3, 32, 32)
    assert torch.equal(batch.images[:4], batch_of().images[:4])


def test_model_noise_may_be_kept_to_the_labelled_images() -> None:
    assert batch_of(model_noise=False).num_noised == 4
    assert batch_of(model_noise=True).num_noised is None
    assert resident(fit_config(noise=NOISE), labelled(), None)(0).num_noised is None
