"""ImageNet-C and ImageNet-P on small folders laid out as released: means by hand, and what is wrong with a folder."""

import io
import shutil
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from noisystudent_core.errors import ConfigurationError, DataError, LabelError, SourceError
from noisystudent_core.evaluation import corruptions, perturbations
from noisystudent_core.evaluation.released import corruption_folders, perturbation_folders
from tests.evaluation.tabled import Table

CLASSES = ("n01440764", "n02123394")
NET = Table(torch.eye(2)[[0] * 128 + [1] * 128])  # dark images are of class 0, bright ones of class 1


@cache
def grey(level: int, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(file, kind, **({"quality": 85} if kind == "JPEG" else {}))
    return file.getvalue()


def write_c(root: Path, wrong: dict[tuple[str, int], int] | None = None) -> str:
    """All 75 folders with two images a class; `wrong` says of how many images (of 4) the net gets the class wrong."""
    for corruption in corruptions.NAMES:
        for severity in corruptions.SEVERITIES:
            number = (wrong or {}).get((corruption, severity), 0)
            for image in range(4):
                label = image % 2
                path = root / corruption / str(severity) / CLASSES[label] / f"ILSVRC2012_val_{image:08d}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(grey(200 if (label == 1) != (image < number) else 50, "JPEG"))
    return str(root)


def write_p(
    root: Path, levels: Mapping[str, Sequence[Sequence[int]]], names: Sequence[str] = perturbations.NAMES
) -> str:
    """For each perturbation sequences of grey levels, of class 0, 1, 0, ...; [[50, 50], [200, 200]] where not given."""
    for name in names or perturbations.NAMES:
        for number, sequence in enumerate(levels.get(name, [[50, 50], [200, 200]])):
            folder = root / name / CLASSES[number % 2] / f"ILSVRC2012_val_{number:08d}"
            folder.mkdir(parents=True)
            for frame, level in enumerate(sequence):
                (folder / f"img{frame}.png").write_bytes(grey(level, "PNG"))
    return str(root)


def imagenet_c(net: Any, sets: Any, baseline: Any = corruptions.ALEXNET) -> Any:
    return corruptions.run(net, sets, baseline)


def imagenet_p(net: Any, sets: Any, baseline: Any = perturbations.ALEXNET) -> Any:
    return perturbations.run(net, sets, baseline)


def batches_of(folders: Any, batch_size: int = 4) -> Any:
    return ((name, severity, folder.batches(8, 1.0, batch_size)) for name, severity, folder in folders)


def sequences_of(folders: Any) -> Any:
    return ((name, folder.sequences(8)) for name, folder in folders)


def test_mce_by_hand(tmp_path: Path) -> None:
    wrong = {("fog", severity): severity - 1 for severity in corruptions.SEVERITIES} | {("snow", 5): 4}
    folders = corruption_folders(write_c(tmp_path, wrong), CLASSES)
    found = dict(imagenet_c(NET, batches_of(folders, 3)))
    assert [found[f"corruption_error/fog/{severity}"] for severity in (1, 2, 3, 4, 5)] == [0, 25, 50, 75, 100]
    assert found["corruption_error/fog"] == 50
    assert found["corruption_error/snow"] == 20
    assert found["mean_corruption_error"] == pytest.approx(70 / 15)
    assert found["corruption_top1"] == pytest.approx(100 - 70 / 15)
    assert found["mce"] == pytest.approx((50 / 0.819324 + 20 / 0.866816) / 15)
    assert len(found) == 75 + 15 + 3


def test_another_baseline_than_alexnet_s(tmp_path: Path) -> None:
    url = write_c(tmp_path, {("fog", 1): 4})
    teacher = {str(name): 0.5 for name in corruptions.NAMES}
    found = dict(imagenet_c(NET, batches_of(corruption_folders(url, CLASSES)), teacher))
    assert found["mce"] == pytest.approx(100 * 0.2 / 0.5 / 15)
    assert "mce" not in dict(imagenet_c(NET, batches_of(corruption_folders(url, CLASSES, ["fog"])), None))
    with pytest.raises(ConfigurationError, match="a mean is comparable over the same corruptions only"):
        dict(imagenet_c(NET, batches_of(corruption_folders(url, CLASSES, ["fog"]))))


def test_the_last_folder_is_looked_at_before_the_first_image(tmp_path: Path) -> None:
    url = write_c(tmp_path)
    shutil.rmtree(tmp_path / "jpeg_compression" / "5" / CLASSES[0])
    with pytest.raises(LabelError, match=r"jpeg_compression/5: no image of 1 of 2 classes \(n01440764\)"):
        corruption_folders(url, CLASSES)


def test_numbers_come_as_they_are_measured(tmp_path: Path) -> None:
    url = write_c(tmp_path)
    (tmp_path / "jpeg_compression" / "5" / CLASSES[0] / "ILSVRC2012_val_00000000.JPEG").write_bytes(b"no image")
    results, found = imagenet_c(NET, batches_of(corruption_folders(url, CLASSES))), {}
    with pytest.raises(SourceError, match=r"jpeg_compression/5/n01440764/ILSVRC2012_val_00000000.JPEG: not_an_image"):
        found.update(results)
    assert len(found) >= 74


def test_images_are_resized_whole_to_the_size_of_the_net(tmp_path: Path) -> None:
    (_, _, folder), *_ = corruption_folders(write_c(tmp_path), CLASSES)
    (images, labels), *rest = folder.batches(20, 1.0, 10)
    assert images.shape == (4, 3, 20, 20)
    assert labels.tolist() == [0, 0, 1, 1]
    assert not rest


def test_other_folders_beside_the_fifteen_are_passed_over(tmp_path: Path) -> None:
    url = write_c(tmp_path)
    (tmp_path / "speckle_noise" / "1").mkdir(parents=True)  # one of the benchmark's four extra corruptions
    assert dict(imagenet_c(NET, batches_of(corruption_folders(url, CLASSES))))["mce"] == 0


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("fog", r"lacks 1 of 15 corruptions \(fog\), has brightness.*unpack all of the benchmark's archives"),
        ("fog/3", r"fog: lacks 1 of 5 severities \(3\), has 1, 2, 4, 5; unpack"),
        (".", r"cannot be listed .*give the folder of a benchmark"),
    ],
)
def test_missing_corruption_or_severity_is_named(tmp_path: Path, gone: str, message: str) -> None:
    url = write_c(tmp_path / "c")
    shutil.rmtree(tmp_path / "c" / gone)
    with pytest.raises(SourceError, match=message):
        corruption_folders(url, CLASSES)


def test_image_that_one_severity_lacks_is_named(tmp_path: Path) -> None:
    url = write_c(tmp_path)
    (tmp_path / "shot_noise" / "2" / CLASSES[1] / "ILSVRC2012_val_00000003.JPEG").unlink()
    with pytest.raises(SourceError, match=r"shot_noise/2: 3 images, .*gaussian_noise/1: 4; n02123394/ILSVRC2012_val_"):
        corruption_folders(url, CLASSES)


@pytest.mark.parametrize(
    ("name", "message"),
    [("fog/2/readme.txt", "readme.txt: must be <class>/<image>"), ("fog/2/n0/x.JPEG", r"other ones \(n0\)")],
)
def test_odd_file_and_other_class_are_named(tmp_path: Path, name: str, message: str) -> None:
    url = write_c(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"odd")
    with pytest.raises(DataError, match=message):
        corruption_folders(url, CLASSES)


def test_an_archive_s_folder_in_between_is_seen(tmp_path: Path) -> None:
    write_c(tmp_path / "noise")  # unpacked into noise/, blur/, ...
    with pytest.raises(SourceError, match=r"lacks 15 of 15 corruptions \(gaussian_noise, .*\), has noise; unpack all"):
        corruption_folders(str(tmp_path), CLASSES)


def test_mfr_by_hand_noise_and_others(tmp_path: Path) -> None:
    dark, bright = 50, 200
    sequence = [dark, bright, bright, dark, dark]
    levels = {"shot_noise": [sequence, [bright] * 5], "tilt": [sequence, [bright] * 5]}
    folders = perturbation_folders(write_p(tmp_path, levels), CLASSES)
    found = dict(imagenet_p(NET, sequences_of(folders)))
    # against the first frame 2 of 4 differ, against the one before 2 of 4 as well, but not the same ones
    assert found["flip_probability/shot_noise"] == 25.0
    assert found["flip_probability/tilt"] == 25.0
    assert found["mean_flip_probability"] == pytest.approx(5.0)
    assert found["perturbation_top1"] == pytest.approx((8 * 100 + 2 * 80) / 10)
    assert found["mfr"] == pytest.approx((25 / 0.3006 + 25 / 0.0705) / 10)


def test_noise_is_compared_with_the_first_frame(tmp_path: Path) -> None:
    sequence = [[50, 200, 200, 200, 200]]
    url = write_p(tmp_path, {name: [*sequence, [200, 200]] for name in perturbations.NAMES})
    found = dict(imagenet_p(NET, sequences_of(perturbation_folders(url, CLASSES))))
    noises = [found[f"flip_probability/{name}"] for name in ("gaussian_noise", "shot_noise")]
    others = [found[f"flip_probability/{name}"] for name in perturbations.NAMES[2:]]
    assert noises == [50.0, 50.0]  # all of 4, none of 1
    assert others == [12.5] * 8
    shares = [found[f"flip_probability/{name}"] / 100 / base for name, base in perturbations.ALEXNET.items()]
    assert found["mfr"] == pytest.approx(100 * fmean(shares))


def test_logits_that_are_no_number_flip_each_time(tmp_path: Path) -> None:
    url = write_p(tmp_path, {}, ["tilt"])
    found = dict(
        imagenet_p(
            Table(torch.full((256, 2), torch.nan)), sequences_of(perturbation_folders(url, CLASSES, ["tilt"])), None
        )
    )
    assert found == {"flip_probability/tilt": 100.0, "mean_flip_probability": 100.0, "perturbation_top1": 0.0}


def test_missing_perturbation_and_class_are_named(tmp_path: Path) -> None:
    url = write_p(tmp_path, {}, perturbations.NAMES[:8])
    with pytest.raises(SourceError, match=r"lacks 2 of 10 perturbations \(tilt, scale\), has brightness"):
        perturbation_folders(url, CLASSES)
    shutil.rmtree(tmp_path / "snow" / CLASSES[1])
    with pytest.raises(LabelError, match=r"snow: no image of 1 of 2 classes \(n02123394\)"):
        perturbation_folders(url, CLASSES, ["rotate", "snow"])


def test_net_of_other_classes_is_named(tmp_path: Path, picture: Any) -> None:
    url = write_p(tmp_path, {}, ["tilt"])
    with pytest.raises(LabelError, match=r"^label 1: must be 0 to 0, the classes of the net"):
        dict(imagenet_p(Table(torch.zeros(256, 1)), sequences_of(perturbation_folders(url, CLASSES, ["tilt"])), None))


def test_no_folders_are_an_error() -> None:
    for results in (imagenet_c(NET, []), imagenet_p(NET, [])):
        with pytest.raises(DataError, match=r"^0 images"):
            dict(results)
