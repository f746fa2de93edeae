"""Dropout and stochastic depth on real timm models: set, felt in training, absent in evaluation."""

import copy
from typing import Any

import pytest
import timm
import torch
from timm.layers.drop import DropPath
from torch import nn

from noisystudent_core.errors import ConfigurationError
from noisystudent_core.noise.model_noise import (
    check_model_noise,
    drop_rates,
    head_dropout,
    noise_by_seed,
    noise_first_rows,
    noise_model,
    set_dropout,
    set_stochastic_depth,
)
from noisystudent_core.noise.noise_layers import Dropout, StochasticDepth

NUM_BLOCKS = {"test_resnet": 4, "test_vit": 6, "test_convnext": 9, "tf_efficientnet_b0": 9, "test_byobnet": 4}
FELT = ["test_resnet", "test_vit", "test_convnext", "mobilenetv3_small_050"]
ROWS = ["test_resnet", "test_vit", "test_convnext", "tf_efficientnet_b0"]
RATES = [(0.9, 0.0), (0.0, 0.9), (0.5, 0.5)]  # dropout, depth


def create(name: str, **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10, **arguments)
    # timm starts residual branches at zero, which hides that they are dropped
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return model.eval()


def four_images(model: nn.Module) -> torch.Tensor:
    # test_vit takes 160 pixels, the others any size
    size = 160 if hasattr(model, "patch_embed") else 48
    return torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1))


def outputs(model: nn.Module, num_runs: int = 4) -> list[torch.Tensor]:
    images = four_images(model)
    with torch.no_grad():
        return [model(images) for _ in range(num_runs)]


def noise_only(model: nn.Module) -> nn.Module:
    """Training mode for the noise, evaluation mode for batch norm, so that only noise can change the output."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


@pytest.mark.parametrize("created_with", [0.0, 0.1])
@pytest.mark.parametrize("name", NUM_BLOCKS)
def test_drop_rates_are_the_papers_whatever_the_model_was_created_with(name: str, created_with: float) -> None:
    model = create(name, drop_path_rate=created_with)
    noise_model(model, dropout=0.5, stochastic_depth=0.2)
    count = NUM_BLOCKS[name]
    assert drop_rates(model) == [0.2 * i / count for i in range(1, count + 1)]
    assert head_dropout(model) == 0.5


@pytest.mark.parametrize("rates", [(0.5, 0.0), (0.0, 0.2)], ids=["dropout", "depth"])
@pytest.mark.parametrize("name", FELT)
def test_each_noise_is_felt_in_training_and_not_in_evaluation(name: str, rates: tuple[float, float]) -> None:
    model = create(name)
    clean = outputs(model, 1)[0]
    noise_model(model, *rates)
    noisy = outputs(noise_only(model), 6)
    assert any(not torch.equal(noisy[0], other) for other in noisy[1:])
    assert torch.equal(outputs(model.eval(), 1)[0], clean)


def test_zero_rates_leave_training_without_noise() -> None:
    model = create("test_resnet", drop_rate=0.3, drop_path_rate=0.1)
    noise_model(model, dropout=0.0, stochastic_depth=0.0)
    first, *others = outputs(noise_only(model))
    assert all(torch.equal(first, other) for other in others)


def test_blocks_are_dropped_per_sample_at_their_rate_and_rescaled() -> None:
    model = create("test_resnet")
    set_stochastic_depth(model, 0.2)
    last = [module for module in model.modules() if isinstance(module, DropPath)][-1]
    branch = last.train()(torch.ones(20_000, 2, 1, 1))
    survived = (branch != 0).flatten(1)
    assert torch.equal(survived[:, 0], survived[:, 1])
    assert 0.785 < survived.float().mean() < 0.815
    assert torch.allclose(branch.max(), torch.tensor(1.25))


def test_state_dict_is_unchanged() -> None:
    model = create("test_vit")
    before = set(model.state_dict())
    noise_model(model, 0.5, 0.2)
    assert set(model.state_dict()) == before


def test_a_model_that_would_ignore_stochastic_depth_is_an_error() -> None:
    # none of its blocks has a shortcut, though timm takes drop_path_rate=0.2 in silence
    model = create("test_efficientnet", drop_path_rate=0.2)
    with pytest.raises(ConfigurationError, match=r"stochastic_depth=0.2: EfficientNet has no residual block"):
        noise_model(model, dropout=0.5, stochastic_depth=0.2)
    set_stochastic_depth(model, 0.0)


def test_a_model_without_dropout_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"dropout=0.5: Linear has no dropout before its classifier"):
        set_dropout(nn.Linear(2, 2), 0.5)


def test_check_finds_what_timm_set_otherwise() -> None:
    model = create("test_resnet", drop_rate=0.5, drop_path_rate=0.2)
    with pytest.raises(ConfigurationError, match=r"dropout=0.4: the model drops 0.5"):
        check_model_noise(model, 0.4, 0.2)
    with pytest.raises(ConfigurationError, match=r"stochastic_depth=0.2: the model's residual blocks drop \[0.0, 0.06"):
        check_model_noise(model, 0.5, 0.2)


@pytest.mark.parametrize("rates", [(1.0, 0.2), (0.5, -0.1)])
def test_rates_outside_zero_to_one(rates: tuple[float, float]) -> None:
    with pytest.raises(ConfigurationError, match=r"must be in \[0, 1\)"):
        noise_model(create("test_resnet"), *rates)


# kept to the first rows of a batch


@pytest.mark.parametrize("rates", RATES, ids=["dropout", "depth", "both"])
@pytest.mark.parametrize("name", ROWS)
def test_noise_kept_to_the_first_rows_leaves_the_others_as_in_evaluation(name: str, rates: tuple[float, float]) -> None:
    model = create(name)
    clean = outputs(model, 1)[0]
    noise_model(model, *rates)
    noise_only(model)
    torch.manual_seed(7)
    everywhere = outputs(model)
    noise_first_rows(model, 2, 4)
    torch.manual_seed(7)
    kept = outputs(model)
    assert all(torch.equal(found[2:], clean[2:]) for found in kept)
    # the noised rows draw what they would draw in a batch that is noised throughout
    assert torch.equal(kept[0][:2], everywhere[0][:2])
    assert not any(torch.equal(found[row], clean[row]) for found in everywhere[:1] for row in range(4))
    noise_first_rows(model, None, 4)
    torch.manual_seed(7)
    assert torch.equal(outputs(model, 1)[0], everywhere[0])


@pytest.mark.parametrize("name", ROWS)
def test_copy_of_a_noised_net_is_told_apart_from_it(name: str) -> None:
    model = create(name)
    clean, keys = outputs(model, 1)[0], set(model.state_dict())
    noise_model(model, 0.5, 0.5)
    averaged = copy.deepcopy(model).eval()
    noise_first_rows(model, 1, 4)
    noise_by_seed(model, torch.arange(4))
    assert set(averaged.state_dict()) == set(model.state_dict()) == keys
    assert torch.equal(outputs(averaged, 1)[0], clean)
    averaged = noise_only(averaged)
    torch.manual_seed(0)
    assert not torch.equal(outputs(averaged, 1)[0][1:], clean[1:])  # the copy still noises every row
    assert (head_dropout(averaged), drop_rates(averaged)[-1]) == (0.5, 0.5)


@pytest.mark.parametrize("name", ROWS)
def test_noise_set_again_takes_the_place_of_the_first(name: str) -> None:
    model = create(name)
    noise_model(model, 0.9, 0.9)
    noise_model(model, 0.0, 0.0)
    first, *others = outputs(noise_only(model))
    assert all(torch.equal(first, other) for other in others)


def test_a_batch_of_other_rows_than_told_is_an_error() -> None:
    model = create("test_resnet")
    noise_model(model, 0.0, 0.2)
    noise_first_rows(model, 2, 3)
    with pytest.raises(ConfigurationError, match=r"sees 4 rows of a batch of 3: must be one per image"):
        outputs(noise_only(model), 1)


def test_compiled_net_is_compiled_once() -> None:
    model = create("test_resnet")
    noise_model(model, 0.5, 0.5)
    noise_only(model)
    compiled: Any = torch.compile(model, backend="eager", fullgraph=True)
    noise_first_rows(compiled, 2, 4)
    with torch._dynamo.config.patch(error_on_recompile=True), torch.no_grad():
        for seed in range(3):
            noise_first_rows(compiled, 2, 4)
            torch.manual_seed(seed)
            found = compiled(four_images(model))
            torch.manual_seed(seed)
            torch.testing.assert_close(found, outputs(model, 1)[0])


# drawn by a seed per row, as a noised teacher's

SEEDS = torch.tensor([11, -5, 2**62, 0])


@pytest.mark.parametrize("rates", RATES, ids=["dropout", "depth", "both"])
@pytest.mark.parametrize("name", ROWS)
def test_noise_by_seed_is_a_function_of_the_seed_whatever_the_batch(name: str, rates: tuple[float, float]) -> None:
    model = create(name)
    clean, images = outputs(model, 1)[0], four_images(model)
    noise_model(model, *rates)

    def noised(rows: list[int]) -> torch.Tensor:
        noise_by_seed(model, SEEDS[rows])
        with torch.no_grad():
            return model(images[rows])

    whole = noised([0, 1, 2, 3])
    assert torch.equal(whole, noised([0, 1, 2, 3]))
    assert not torch.equal(whole, clean)
    # sums differ in their last bits with the place in a batch
    torch.testing.assert_close(noised([3, 1]), whole[[3, 1]], rtol=1e-4, atol=1e-5)
    noise_by_seed(model, SEEDS + 1)
    assert not torch.equal(outputs(model, 1)[0], whole)
    noise_by_seed(model, None)
    assert torch.equal(outputs(model, 1)[0], clean)


def test_draws_by_seed_have_the_rate_and_are_rescaled() -> None:
    seeds, ones = torch.arange(4000), torch.ones(4000, 3, 2, 1)
    for layer, rate in ((Dropout(0.3), 0.3), (StochasticDepth(0.2, stream=1), 0.2)):
        layer.seeds_B = seeds
        found = layer.eval()(ones)
        assert abs((found == 0).float().mean() - rate) < 0.02
        torch.testing.assert_close(found[found > 0].unique(), torch.tensor([1 / (1 - rate)]))
    whole_rows = (found == 0).flatten(1)
    assert torch.equal(whole_rows.all(1), whole_rows.any(1))


def test_layers_and_elements_draw_apart() -> None:
    ones = torch.ones(500, 4)
    layers = [StochasticDepth(0.5, stream=1), StochasticDepth(0.5, stream=2), Dropout(0.5)]
    for layer in layers:
        layer.seeds_B = torch.arange(500)
    first, second, elements = (layer(ones) > 0 for layer in layers)
    columns = [first[:, 0], second[:, 0], *elements.T]
    shares = torch.corrcoef(torch.stack(columns).float()) - torch.eye(6)
    assert shares.abs().max() < 0.15
