"""Labelling rows of a part: their order, their bytes whatever follows them, bad rows, and a teacher without noise."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from noisystudent_core.config import InputNoise, ModelConfig, PredictConfig, TeacherNoise
from noisystudent_core.data.ingest import image_id
from noisystudent_core.data.mixing import id_seeds
from noisystudent_core.data.parts import decode
from noisystudent_core.data.schemas import PREDICTIONS, distributions, to_bytes
from noisystudent_core.models.architectures import Normalised, create_model
from noisystudent_core.noise.model_noise import noise_model
from noisystudent_core.pseudo_labels.forward import Forward
from noisystudent_core.pseudo_labels.pipeline import Labeller

NUM_CLASSES = 3
MODEL = ModelConfig(name="test_resnet", resolution_px=32, head_init_range=1.0)


@pytest.fixture(scope="module")
def table(picture: Callable[..., bytes]) -> pa.Table:
    """Eleven images in random order of id."""
    images = [picture(number, number % NUM_CLASSES) for number in range(11)]
    ids, reasons = pa.array(map(image_id, images), pa.binary(16)), pa.nulls(len(images), pa.string())
    return pa.table({"image_id": ids, "image": images, "reason": reasons})


@pytest.fixture(scope="module")
def net(table: pa.Table) -> Normalised:
    """Not trained, but used to these images and of more than one opinion on them."""
    net = Normalised(create_model(MODEL, NUM_CLASSES, seed=0, batch_norm_momentum=0.1)).train()
    images, _ = decode(table, 32, 1.0)
    with torch.no_grad():
        for _ in range(30):
            net(images)  # sets the batch norm statistics
        bias = net.eval().get_parameter("net.fc.bias")
        bias -= net(images).mean(0)
    return net


def predict_rows(net: Any, table: pa.Table, config: PredictConfig, size: int, crop_fraction: float) -> pa.Table:
    """The rows of one part."""
    with Labeller(Forward(net, config, size), config, size, crop_fraction) as labeller:
        [(_, found)] = labeller.label([(None, lambda: table)])
    if isinstance(found, Exception):
        raise found
    return found


def predict(net: Normalised, table: pa.Table, keep: Any = "distribution", batch_size: int = 4) -> pa.Table:
    return predict_rows(net, table, PredictConfig(keep=keep, batch_size=batch_size), 32, 1.0)


def test_rows_keep_their_order_and_agree_with_the_net(net: Normalised, table: pa.Table) -> None:
    found = predict(net, table)
    assert found["image_id"].to_pylist() == table["image_id"].to_pylist()
    alone = [predict(net, table.slice(row, 1)) for row in range(len(table))]
    labels = [row["label"][0].as_py() for row in alone]
    assert found["label"].to_pylist() == labels
    assert len(set(labels)) > 1
    probabilities = np.array(found["probabilities"].to_pylist(), np.float32)
    assert probabilities.argmax(1).tolist() == labels
    assert found["confidence"].to_numpy() == pytest.approx(probabilities.max(1), abs=1e-3)


@settings(deadline=None, max_examples=25)
@given(num_rows=st.integers(1, 11), batch_size=st.sampled_from([3, 4, 8]))
def test_what_follows_a_row_does_not_change_its_bytes(
    net: Normalised, table: pa.Table, num_rows: int, batch_size: int
) -> None:
    whole = predict(net, table, batch_size=batch_size)
    first = predict(net, table.slice(0, num_rows), batch_size=batch_size)
    assert to_bytes(first, first.schema) == to_bytes(whole.slice(0, num_rows), whole.schema)


def test_distributions_sum_to_one_within_float16(net: Normalised, table: pa.Table) -> None:
    found = predict(net, table)
    assert found.schema.equals(distributions(NUM_CLASSES))
    sums = np.array(found["probabilities"].to_pylist(), np.float64).sum(1)
    assert np.abs(sums - 1).max() < NUM_CLASSES * 2**-11  # half a unit in the last place below 1, each
    assert (found["confidence"].to_numpy() <= 1).all()


def test_label_and_confidence_alone(net: Normalised, table: pa.Table) -> None:
    found = predict(net, table, keep="label")
    assert found.schema.equals(PREDICTIONS)
    assert found.equals(predict(net, table).drop_columns(["probabilities"]))


@pytest.mark.parametrize("keep", ["label", "distribution"])
def test_undecodable_row_has_a_reason_and_no_label(net: Normalised, table: pa.Table, keep: str) -> None:
    images, reasons = table["image"].to_pylist(), table["reason"].to_pylist()
    images[1], images[5] = images[1][:40], b"no image"
    reasons[7] = "too_many_pixels"  # refused when it was taken in: not decoded again
    bad = table.set_column(1, "image", [images]).set_column(2, "reason", [reasons])
    found = predict(net, bad, keep)
    told = {1: "truncated", 5: "not_an_image", 7: "too_many_pixels"}
    assert {row: why for row, why in enumerate(found["reason"].to_pylist()) if why} == told
    for column in ("label", "confidence"):
        assert [row for row, value in enumerate(found[column].to_pylist()) if value is None] == list(told)
    good = [row for row in range(11) if row not in told]
    assert found.take(good).equals(predict(net, table, keep).take(good))


def test_no_rows_give_no_predictions(net: Normalised, table: pa.Table) -> None:
    for keep, schema in (("label", PREDICTIONS), ("distribution", distributions(NUM_CLASSES))):
        found = predict(net, table.slice(0, 0), keep)  # the validation share of a part may be empty
        assert found.num_rows == 0
        assert found.schema.equals(schema)


def test_teacher_labels_without_noise_and_is_not_changed_by_it(table: pa.Table) -> None:
    quiet = create_model(MODEL, NUM_CLASSES, seed=0, batch_norm_momentum=0.1)
    noised = create_model(MODEL, NUM_CLASSES, seed=0, batch_norm_momentum=0.1)
    noise_model(noised, dropout=0.5, stochastic_depth=0.5)
    teacher = Normalised(noised).eval()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    images = torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def forward(net: Normalised) -> torch.Tensor:
        return Forward(net, PredictConfig(batch_size=9), 32)(images)

    found = forward(teacher)
    assert torch.equal(found, forward(teacher))
    assert torch.equal(found, forward(Normalised(quiet).eval()))
    assert torch.equal(found, forward(teacher.train()))
    assert (teacher.eval()(images).softmax(1) - found).abs().max() < 1e-6
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    with torch.no_grad():
        assert (teacher.train()(images).softmax(1) - found).abs().max() > 1e-3  # the noise is there to be left out


class Seen(torch.nn.Module):
    """Gives the seeds it was told as logits, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("place", torch.nn.Parameter(torch.zeros(1)))
        self.seeds: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor, seeds_B: torch.Tensor) -> torch.Tensor:
        assert len(images) == len(seeds_B)
        self.seeds.append(seeds_B)
        return torch.stack((seeds_B % 7, seeds_B % 5, seeds_B % 3), dim=1).float()


@pytest.mark.parametrize("order", [list(range(11)), [10, 3, 4, 1], [6]])
def test_noised_net_is_told_each_image_s_own_seed_wherever_it_stands(table: pa.Table, order: list[int]) -> None:
    noise = TeacherNoise(input_noise=InputNoise(), dropout=0.5, stochastic_depth=0.2, seed=3)
    net, config = Seen(), PredictConfig(keep="distribution", batch_size=4, noise=noise)
    found = predict_rows(net, table.take(order), config, 32, 1.0)
    expected = id_seeds(3, table["image_id"])[order]
    padding = [0] * (-len(order) % 4)
    assert sorted(torch.cat(net.seeds).tolist()) == sorted([*expected.tolist(), *padding])
    assert {len(seeds) for seeds in net.seeds} == {4}
    logits = torch.stack((expected % 7, expected % 5, expected % 3), dim=1).float()
    assert found["label"].to_pylist() == logits.argmax(1).tolist()
