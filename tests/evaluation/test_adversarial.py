"""Attacks against two libraries' on the same net and images, and what they may not touch."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from noisystudent_core.config.evaluation import AdversarialConfig
from noisystudent_core.errors import ConfigurationError, DataError, LabelError
from noisystudent_core.evaluation import adversarial
from noisystudent_core.models.architectures import Normalised
from tests.evaluation.attacked import FIXTURE, NUM_IMAGES, digits, fitted

Attack = Callable[[Normalised, Tensor, Tensor, float], Tensor]
ATTACKS: list[Attack] = [adversarial.fgsm, adversarial.pgd]
FEW = 8


@pytest.fixture(scope="module")
def net() -> Normalised:
    return fitted()


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    return digits("test", NUM_IMAGES)


def few(data: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return data[0][:FEW], data[1][:FEW]


def in_batches(data: tuple[Tensor, Tensor], size: int = 256) -> list[tuple[Tensor, Tensor]]:
    return list(zip(data[0].split(size), data[1].split(size), strict=True))


@pytest.mark.parametrize("library", ["torchattacks", "foolbox"])
def test_top1_under_attack_is_the_libraries(net: Normalised, data: tuple[Tensor, Tensor], library: str) -> None:
    config = AdversarialConfig(fgsm_epsilons=(1, 2, 4, 8, 16), pgd_epsilon=16)
    found = dict(adversarial.run(net, in_batches(data), config))
    with np.load(FIXTURE) as stored:
        theirs = {name: 100 * float((stored[name] == data[1].numpy()).mean()) for name in stored if library in name}
    for name, value in found.items():
        named = {"pgd_16/top1": "pgd_16_10_4"}.get(name, name.removesuffix("/top1"))
        assert value == pytest.approx(theirs[f"{library}/{named}"], abs=0.1 + 1e-9), name
    assert len(found) == 6


@pytest.mark.parametrize(("epsilon", "steps", "step_size"), [(4, 10, 1.0), (16, 10, 4.0), (16, 3, 2.0)])
def test_predictions_after_pgd_are_the_libraries(
    net: Normalised, data: tuple[Tensor, Tensor], epsilon: float, steps: int, step_size: float
) -> None:
    attacked = adversarial.pgd(net, *data, epsilon, steps, step_size)
    with torch.no_grad():
        found = net(attacked).argmax(1).numpy()
    with np.load(FIXTURE) as stored:
        for library in ("torchattacks", "foolbox"):
            theirs = stored[f"{library}/pgd_{epsilon}_{steps}_{step_size:g}"]
            assert (found != theirs).sum() <= NUM_IMAGES // 500  # a gradient's sign may hang on its rounding


def test_default_step_is_two_and_a_half_epsilons_over_all_steps(net: Normalised, data: tuple[Tensor, Tensor]) -> None:
    found = adversarial.pgd(net, *few(data), 16)
    assert torch.equal(found, adversarial.pgd(net, *few(data), 16, num_steps=10, step_size=4.0))


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    epsilon=st.floats(0, 255),
    step_size=st.none() | st.floats(0, 255),
    random_start=st.booleans(),
)
def test_pixels_stay_in_range_and_in_the_ball(
    net: Normalised, seed: int, epsilon: float, step_size: float | None, random_start: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (2, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (2,), generator=generator)
    seeds = torch.tensor([seed, seed + 1]) if random_start else None
    for attacked in (
        adversarial.fgsm(net, images, labels, epsilon),
        adversarial.pgd(net, images, labels, epsilon, 3, step_size, seeds),
    ):
        assert attacked.dtype == torch.float32
        assert attacked.min() >= 0
        assert attacked.max() <= 255
        assert (attacked - images.float()).abs().max() <= epsilon + 1e-4


def test_fgsm_moves_every_pixel_by_epsilon(net: Normalised) -> None:
    images = torch.full((1, 3, 32, 32), 128, dtype=torch.uint8)
    moved = (adversarial.fgsm(net, images, torch.tensor([3]), 5) - 128).abs().unique()
    assert set(moved.tolist()) <= {0.0, 5.0}  # 0 where the loss does not hang on the pixel
    assert 5.0 in moved


@pytest.mark.parametrize("attack", ATTACKS)
def test_epsilon_zero_changes_nothing(net: Normalised, data: tuple[Tensor, Tensor], attack: Attack) -> None:
    images, labels = few(data)
    assert torch.equal(attack(net, images, labels, 0), images.float())


def test_random_start_hangs_on_the_seed_of_the_image_alone(net: Normalised, data: tuple[Tensor, Tensor]) -> None:
    images, labels = few(data)
    seeds = torch.arange(FEW)

    def start(rows: slice, shift: int = 0) -> Tensor:
        return adversarial.pgd(net, images[rows], labels[rows], 16, 1, 0.0, seeds[rows] + shift)

    whole = start(slice(0, FEW))
    assert torch.equal(whole, torch.cat([start(slice(0, 3)), start(slice(3, FEW))]))
    assert not torch.equal(whole, start(slice(0, FEW), shift=100))
    inside = (images > 16) & (images < 239)  # not clipped
    moved = (whole - images.float())[inside]
    assert moved.mean().abs() < 1
    assert moved.std().item() == pytest.approx(32 / math.sqrt(12), rel=0.05)  # uniform


def test_numbers_hang_on_the_seed_not_on_the_batches(net: Normalised, data: tuple[Tensor, Tensor]) -> None:
    config = AdversarialConfig(fgsm_epsilons=(0, 8), pgd_random_start=True, pgd_steps=2, seed=3)
    some = data[0][:100], data[1][:100]
    found = dict(adversarial.run(net, in_batches(some, 33), config))
    assert found == dict(adversarial.run(net, in_batches(some, 100), config))
    assert list(found) == ["fgsm_0/top1", "fgsm_8/top1", "pgd_16/top1"]
    with torch.no_grad():
        assert found["fgsm_0/top1"] == 100 * (net(some[0]).argmax(1) == some[1]).double().mean().item()


@pytest.mark.parametrize("training", [False, True])
def test_net_stays_as_it_is(data: tuple[Tensor, Tensor], training: bool) -> None:
    net = fitted().train(training)
    net.net[1].eval()  # type: ignore[index]  # a frozen layer among others
    net.net[0].requires_grad_(False)  # type: ignore[index]
    weight = net.net[3].weight  # type: ignore[index]
    weight.grad = torch.ones_like(weight)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    learned = [parameter.requires_grad for parameter in net.parameters()]
    with torch.no_grad():  # whoever measures may have switched gradients off
        dict(adversarial.run(net, [few(data)], AdversarialConfig(pgd_steps=2)))
    with pytest.raises(LabelError):
        adversarial.fgsm(net, data[0][:1], torch.tensor([10]), 1)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert [module.training for module in net.modules()] == modes
    assert [parameter.requires_grad for parameter in net.parameters()] == learned
    assert [p.grad is None for p in net.parameters()] == [p is not weight for p in net.parameters()]
    assert torch.equal(weight.grad, torch.ones_like(weight))


def test_autocast_around_does_not_reach_the_attack(net: Normalised, data: tuple[Tensor, Tensor]) -> None:
    alone = adversarial.fgsm(net, *few(data), 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(adversarial.fgsm(net, *few(data), 8), alone)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("epsilon", [-1, 256, math.nan, math.inf])
def test_epsilon_out_of_range_is_named(
    net: Normalised, data: tuple[Tensor, Tensor], attack: Attack, epsilon: float
) -> None:
    with pytest.raises(ConfigurationError, match=rf"^epsilon={epsilon}: must be from 0 to 255"):
        attack(net, *few(data), epsilon)


@pytest.mark.parametrize("setting", [{"fgsm_epsilons": (-1,)}, {"pgd_epsilon": 256}, {"pgd_steps": 0}])
def test_settings_out_of_range_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        AdversarialConfig(**setting)


@pytest.mark.parametrize("value", [-1.0, 256.0, math.nan])
def test_pixels_out_of_range_are_named(net: Normalised, value: float) -> None:
    images = torch.full((1, 3, 32, 32), value)
    with pytest.raises(DataError, match=r"must be from 0 to 255; give images before normalisation"):
        adversarial.fgsm(net, images, torch.tensor([0]), 1)


@pytest.mark.parametrize("label", [-1, 10])
def test_labels_out_of_range_are_named(net: Normalised, data: tuple[Tensor, Tensor], label: int) -> None:
    with pytest.raises(LabelError, match=rf"^label {label}: must be 0 to 9"):
        dict(adversarial.run(net, [(data[0][:2], torch.tensor([0, label]))], AdversarialConfig()))


def test_no_images_are_an_error(net: Normalised) -> None:
    with pytest.raises(DataError, match=r"^0 images"):
        dict(adversarial.run(net, [], AdversarialConfig()))
