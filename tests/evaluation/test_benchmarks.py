"""ImageNet-A and ReaL: lists against what is known of them, and logits made by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from noisystudent_core.errors import DataError, LabelError
from noisystudent_core.evaluation import benchmarks
from noisystudent_core.evaluation.folders import ImageFolder, image_folder
from noisystudent_core.storage.filesystem import Folder
from tests.evaluation.tabled import Table, batches

IN_A, NOT_IN_A = [6, 11, 13, 15, 17, 22], [0, 1, 2, 3]  # classes of ImageNet


def logits(*best: Sequence[int], num_classes: int = 1000) -> Tensor:
    """For each image the classes in order of their score; all others score less."""
    found = torch.zeros(len(best), num_classes)
    for row, classes in enumerate(best):
        found[row, list(classes)] = torch.arange(len(classes), 0, -1).float()
    return found + torch.linspace(0, 0.1, num_classes)  # no ties


def imagenet_a(found: Tensor, labels: list[int]) -> dict[str, Any]:
    return dict(benchmarks.imagenet_a(Table(found), batches(torch.tensor(labels))))


def real(found: Tensor, *sets: Sequence[int]) -> dict[str, Any]:
    labels = torch.zeros(len(sets), found.shape[1], dtype=torch.bool)
    for row, classes in enumerate(sets):
        labels[row, list(classes)] = True
    return dict(benchmarks.real(Table(found), batches(labels)))


def validation(*numbers: int) -> ImageFolder:
    """ImageNet's validation images of these numbers, without their files."""
    names = tuple(f"n01440764/ILSVRC2012_val_{number:08d}.JPEG" for number in numbers)
    return ImageFolder(folder=Folder.at("memory://val"), names=names, labels=torch.zeros(len(names)).long(), digest="")


def test_lists_name_imagenet_s_classes() -> None:
    names, in_a = benchmarks.imagenet_class_names(), benchmarks.imagenet_a_class_names()
    assert (len(names), len(in_a)) == (1000, 200)
    assert list(names) == sorted(names)
    assert [names.index(name) for name in in_a[:6]] == IN_A


def test_other_classes_do_not_count_in_imagenet_a() -> None:
    # 20 classes outside A score higher than the right one, none inside
    assert imagenet_a(logits([*NOT_IN_A, 6], [6], [1, 11, 6]), [6, 6, 6]) == pytest.approx(
        {"top1": 200 / 3, "top5": 100.0}
    )


def test_top5_of_imagenet_a_is_among_its_classes() -> None:
    found = imagenet_a(logits([0, *IN_A[:4], 1, 2, 17], [*IN_A[:5], 22]), [17, 22])
    assert found == {"top1": 0.0, "top5": 50.0}  # fifth, and sixth


def test_imagenet_a_needs_imagenet_s_classes_and_its_own_labels() -> None:
    with pytest.raises(LabelError, match=r"^10 classes: ImageNet-A needs a net of ImageNet's 1000, in wnid order"):
        imagenet_a(logits([6], num_classes=10), [6])
    for label in (0, 999):
        with pytest.raises(LabelError, match=rf"^label {label}: must be one of the 200 of ImageNet-A; give its images"):
            imagenet_a(logits([6]), [label])
    with pytest.raises(LabelError, match=r"^label 1000: must be 0 to 999"):
        imagenet_a(logits([6]), [1000])
    with pytest.raises(DataError, match=r"^0 images"):
        imagenet_a(logits([6]), [])


def test_real_counts_a_prediction_among_the_labels() -> None:
    found = logits([3], [4], [7], [9, 8, 7, 6, 5, 4])
    assert real(found, [3, 5], [3, 5], [7], [5, 1]) == {"top1": 50.0, "top5": 75.0}


def test_images_without_a_label_are_skipped() -> None:
    assert real(logits([3], [4], [5]), [], [4], []) == {"top1": 100.0, "top5": 100.0}
    with pytest.raises(DataError, match=r"^0 images"):
        real(logits([3]), [])


def test_a_tie_and_no_number_are_misses_in_real() -> None:
    flat = torch.zeros(1, 10)
    assert real(flat, [3, 5]) == {"top1": 0.0, "top5": 0.0}
    assert real(flat.fill_(torch.nan), [3, 5]) == {"top1": 0.0, "top5": 0.0}
    assert real(flat, range(10)) == {"top1": 100.0, "top5": 100.0}  # nothing is wrong


def test_real_needs_the_classes_of_the_net() -> None:
    labels = torch.ones(1, 1000, dtype=torch.bool)
    with pytest.raises(LabelError, match=r"^sets of labels of 1000 classes: the net has 10; give another"):
        dict(benchmarks.real(Table(torch.zeros(1, 10)), batches(labels)))


def test_real_labels_are_known_by_the_images_numbers() -> None:
    found = benchmarks.with_real_labels(validation(1, 2, 3, 50000))
    assert [name[-13:-5] for name in found.names[:2]] == ["00000002", "00000003"]  # the first has no label
    assert [row.nonzero().flatten().tolist() for row in found.labels[:2]] == [[795, 970], [230, 231]]
    everything = benchmarks.with_real_labels(validation(*range(1, 50001)))
    assert len(everything) == len(everything.labels) == 46837  # Beyer et al. 2020
    assert everything.labels.any(1).all()


@pytest.mark.parametrize("number", [0, 50001])
def test_images_that_real_does_not_know_are_named(number: int) -> None:
    with pytest.raises(DataError, match=rf"_{number:08d}.JPEG: ReaL knows images by number; must be ILSVRC2012_val_0"):
        benchmarks.with_real_labels(validation(number))


def test_folders_of_both_benchmarks_feed_their_evaluators(tmp_path: Path, picture: Any) -> None:
    for number, name in enumerate(benchmarks.imagenet_a_class_names()):
        (tmp_path / "a" / name).mkdir(parents=True)
        (tmp_path / "a" / name / "0.001_x_y_0.5.jpg").write_bytes(picture(number, size_px=8, kind="JPEG"))
    folder = benchmarks.imagenet_a_folder(str(tmp_path / "a"))
    assert folder.labels[:6].tolist() == IN_A
    net = Table(torch.zeros(256, 1000).index_fill(1, torch.tensor(6), 1.0))  # says 6, whatever it sees
    assert dict(benchmarks.imagenet_a(net, folder.batches(8, 1.0, 64)))["top1"] == 0.5

    (tmp_path / "val" / "n01440764").mkdir(parents=True)
    for number in (1, 2, 3):
        path = tmp_path / "val" / "n01440764" / f"ILSVRC2012_val_{number:08d}.JPEG"
        path.write_bytes(picture(number, size_px=8, kind="JPEG"))
    images = image_folder(str(tmp_path / "val"), benchmarks.imagenet_class_names(), ["n01440764"])
    net = Table(torch.zeros(256, 1000).index_fill(1, torch.tensor(231), 1.0))
    assert dict(benchmarks.real(net, benchmarks.with_real_labels(images).batches(8, 1.0, 2)))["top1"] == 50.0
