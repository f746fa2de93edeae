"""Class by class and calibration: by hand, and against scikit-learn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score
from torch import Tensor

from noisystudent_core.evaluation import accuracy, classification
from noisystudent_core.evaluation.calibration import NUM_BINS
from noisystudent_core.evaluation.metrics import Array, measure, split
from tests.evaluation.tabled import Table, batches


def run(logits: Tensor, labels: Tensor, batch_size: int = 2) -> tuple[dict[str, float], dict[str, Array]]:
    return split(classification.run(Table(logits), batches(labels, batch_size)))


def sure(confidences: list[float]) -> Tensor:
    """Logits of two classes, the first of which has these confidences."""
    first = torch.tensor(confidences, dtype=torch.float64)
    return torch.stack([first.log(), (1 - first).log()], 1)


def test_classes_by_hand() -> None:
    logits = torch.eye(4)[[0, 0, 1, 0, 1, 2]]  # predictions
    numbers, arrays = run(logits, torch.tensor([0, 0, 0, 1, 1, 1]))
    # class 0: 2 of 3 given, 2 of 3 right; class 1: 1 of 2 and 1 of 3; class 2: given once; class 3: nowhere
    assert numbers["macro_f1"] == pytest.approx(100 * (4 / 6 + 2 / 5 + 0) / 3)
    np.testing.assert_allclose(arrays["class_top1"].values, [200 / 3, 100 / 3, np.nan, np.nan])
    assert arrays["class_images"].values.tolist() == [3, 3, 0, 0]
    assert arrays["confusion"].values.tolist() == [[2, 1, 0, 0], [1, 1, 1, 0], [0] * 4, [0] * 4]
    assert arrays["confusion"].axes == ("true", "predicted")


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num_images=st.integers(1, 40), num_classes=st.integers(2, 8))
def test_classes_are_scikit_learn_s(seed: int, num_images: int, num_classes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_images, num_classes, generator=generator)
    labels = torch.randint(num_classes, (num_images,), generator=generator)
    numbers, arrays = run(logits, labels, batch_size=7)
    predictions = logits.argmax(1)
    assert numbers["macro_f1"] == pytest.approx(100 * float(f1_score(labels, predictions, average="macro")))
    wanted = confusion_matrix(labels, predictions, labels=range(num_classes))
    assert np.array_equal(arrays["confusion"].values, wanted)
    assert numbers["top1"] == pytest.approx(100 * np.trace(wanted) / num_images)


def test_numbers_of_accuracy_are_its_own() -> None:
    logits, labels = torch.randn(30, 9), torch.randint(9, (30,))
    numbers, _ = run(logits, labels)
    alone = dict(accuracy.run(Table(logits), batches(labels)))
    assert {name: numbers[name] for name in alone} == alone


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_a_tie_is_another_class_in_the_confusion_too(value: float) -> None:
    numbers, arrays = run(torch.full((3, 3), value), torch.tensor([0, 1, 2]))
    assert numbers["top1"] == np.trace(arrays["confusion"].values) == 0
    assert arrays["confusion"].values.sum() == 3


def test_confusion_of_very_many_classes_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classification, "MAX_CONFUSION_CLASSES", 3)
    assert "confusion" in run(torch.eye(3), torch.arange(3))[1]
    assert "confusion" not in run(torch.eye(4), torch.arange(4))[1]


def test_calibration_by_hand() -> None:
    # 90% sure and right twice in three, 62% sure and right
    numbers, arrays = run(sure([0.9, 0.9, 0.9, 0.62]), torch.tensor([0, 0, 1, 0]))
    assert numbers["ece"] == pytest.approx(100 * (3 / 4 * (0.9 - 2 / 3) + 1 / 4 * (1 - 0.62)), abs=1e-4)
    assert arrays["reliability_images"].values.tolist() == [0] * 9 + [1] + [0] * 3 + [3, 0]
    assert arrays["reliability_confidence"].values[[9, 13]] == pytest.approx([62, 90], abs=1e-4)
    assert arrays["reliability_top1"].values[[9, 13]] == pytest.approx([100, 200 / 3])
    assert np.isnan(arrays["reliability_top1"].values).sum() == NUM_BINS - 2


def test_a_net_that_is_as_right_as_it_is_sure_has_no_error() -> None:
    numbers, _ = run(sure([0.75] * 4), torch.tensor([0, 0, 0, 1]))
    assert numbers["ece"] == pytest.approx(0, abs=1e-4)


def test_bins_end_with_their_upper_edge() -> None:
    numbers, arrays = run(torch.tensor([[200.0, 0.0], [-200.0, 0.0]]), torch.tensor([0, 0]))
    assert arrays["reliability_images"].values.tolist() == [0] * 14 + [2]  # a confidence of 1
    assert numbers["ece"] == 50
    _, arrays = run(torch.zeros(1, 15), torch.tensor([3]))  # 1/15, the least that 15 classes allow
    assert arrays["reliability_images"].values[0] == 1


def test_confidences_that_are_no_number_make_the_error_none() -> None:
    numbers, _ = run(torch.tensor([[math.nan, 0.0], [1.0, 0.0]]), torch.tensor([0, 0]))
    assert math.isnan(numbers["ece"])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), batch_size=st.integers(1, 31))
def test_batches_make_no_difference(seed: int, batch_size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits, labels = 3 * torch.randn(30, 4, generator=generator), torch.randint(4, (30,), generator=generator)
    numbers, arrays = run(logits, labels, batch_size)
    whole, whole_arrays = run(logits, labels, 30)
    assert numbers == pytest.approx(whole)
    for name, array in arrays.items():
        np.testing.assert_allclose(array.values, whole_arrays[name].values)


def test_arrays_have_flat_names() -> None:
    counts = Array(values=np.array([[2, 0], [0, 1]]), axes=("true", "predicted"))
    assert dict(counts.rows("confusion")) == {"confusion/0/0": 2.0, "confusion/1/1": 1.0}
    shares = Array(values=np.array([0.0, np.nan, 50.0]), axes=("class",))
    assert dict(shares.rows("class_top1")) == {"class_top1/0": 0.0, "class_top1/2": 50.0}


def test_one_pass_serves_all_tallies() -> None:
    seen = batches(torch.tensor([0, 1, 1]))
    once = iter(seen)
    found = dict(measure(Table(torch.eye(3)), once, accuracy.Accuracy(), classification.Classes()))
    assert next(once, None) is None
    assert {"top1", "loss", "macro_f1", "confusion"} < set(found)
