"""Torchvision's data sets by name: the pixels and labels that torchvision gives, and the names that it knows."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat
from torchvision import datasets

from noisystudent_core.data.images import decode_image
from noisystudent_core.errors import ConfigurationError, SourceError
from tests.data import written
from tests.data.prepared import Prepared
from tests.data.written import Given

NUM = 10
LABELS = list(range(NUM))


def pixels_of(number: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (NUM, *shape), dtype=np.uint8)


def write_fashion(root: Path, patch: pytest.MonkeyPatch) -> np.ndarray:
    pixels, raw = pixels_of(1, 28, 28), root / "FashionMNIST" / "raw"
    written.write_idx(raw, pixels, LABELS)
    for path in list(raw.iterdir()):  # torchvision looks for both splits
        (raw / path.name.replace("train", "t10k")).write_bytes(path.read_bytes())
    return pixels[:, None]


def write_cifar10(root: Path, patch: pytest.MonkeyPatch) -> np.ndarray:
    pixels = pixels_of(2, 3, 32, 32)
    names = [f"class {number}" for number in LABELS]
    write_cifar(datasets.CIFAR10, "test_batch", {"labels": LABELS}, {"label_names": names}, pixels, root, patch)
    return pixels


def write_cifar100(root: Path, patch: pytest.MonkeyPatch) -> np.ndarray:
    pixels = pixels_of(3, 3, 32, 32)
    meta = {"fine_label_names": [f"class {number}" for number in LABELS]}
    write_cifar(datasets.CIFAR100, "test", {"fine_labels": LABELS}, meta, pixels, root, patch)
    return pixels


def write_cifar(
    kind: Any, name: str, labels: Any, meta: Any, pixels: np.ndarray, root: Path, patch: pytest.MonkeyPatch
) -> None:
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    (folder / name).write_bytes(pickle.dumps({"data": pixels.reshape(NUM, -1), **labels}))
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps(meta))
    patch.setattr(kind, "train_list", [])
    patch.setattr(kind, "test_list", [[name, None]])
    patch.setattr(kind, "meta", kind.meta | {"md5": None})


def write_svhn(root: Path, patch: pytest.MonkeyPatch) -> np.ndarray:
    pixels = pixels_of(4, 3, 32, 32)
    root.mkdir(parents=True)
    there = np.array([label or 10 for label in LABELS])[:, None]  # the files call the digit 0 by 10
    savemat(root / "extra_32x32.mat", {"X": pixels.transpose(2, 3, 1, 0), "y": there})
    patch.setattr(datasets.SVHN, "_check_integrity", lambda self: True)
    return pixels


def write_stl10(root: Path, patch: pytest.MonkeyPatch) -> np.ndarray:
    pixels, folder = pixels_of(5, 3, 96, 96), root / "stl10_binary"
    folder.mkdir(parents=True)
    (folder / "test_X.bin").write_bytes(pixels.transpose(0, 1, 3, 2).tobytes())
    (folder / "test_y.bin").write_bytes(bytes(label + 1 for label in LABELS))
    (folder / "class_names.txt").write_text("\n".join(f"class {number}" for number in LABELS))
    patch.setattr(datasets.STL10, "_check_integrity", lambda self: True)
    return pixels


SETS: dict[str, tuple[Callable[[Path, pytest.MonkeyPatch], np.ndarray], str]] = {
    "FashionMNIST": (write_fashion, "train"),
    "CIFAR10": (write_cifar10, "test"),
    "CIFAR100": (write_cifar100, "test"),
    "SVHN": (write_svhn, "extra"),
    "STL10": (write_stl10, "test"),
}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("images_per_part", [3, 100])
def test_pixels_and_labels_come_through(
    name: str, images_per_part: int, tmp_path: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, split = SETS[name]
    pixels = write(tmp_path / "sets", monkeypatch)
    source = f"torchvision:{name}?root={tmp_path}/sets&split={split}"
    manifest = prepared(source, named=name != "SVHN", num_classes=NUM, images_per_part=images_per_part)
    rows = prepared.rows()
    assert len(manifest.parts) == -(-NUM // images_per_part)
    assert [row["label"] for row in rows] == LABELS
    for row, expected in zip(rows, pixels, strict=True):
        assert (decode_image(row["image"], channels=len(expected)).numpy() == expected).all()


def test_classes_have_their_names(tmp_path: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fashion(tmp_path, monkeypatch)
    write_cifar100(tmp_path, monkeypatch)
    found = prepared(f"torchvision:FashionMNIST?root={tmp_path}&split=train")
    assert found.facts["class_names"] == datasets.FashionMNIST.classes
    found = prepared(f"torchvision:CIFAR100?root={tmp_path}&split=test")
    assert found.facts["class_names"] == [f"class {number}" for number in LABELS]


def test_stl10_has_unlabelled_images(tmp_path: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, folder = pixels_of(6, 3, 96, 96), tmp_path / "stl10_binary"
    folder.mkdir()
    (folder / "unlabeled_X.bin").write_bytes(pixels.transpose(0, 1, 3, 2).tobytes())
    monkeypatch.setattr(datasets.STL10, "_check_integrity", lambda self: True)
    prepared(f"torchvision:STL10?root={tmp_path}&split=unlabeled", read_labels=False)
    assert [(row["height"], row["label"]) for row in prepared.rows()] == [(96, None)] * NUM


def test_image_folder_is_a_folder(tmp_path: Path, prepared: Prepared, picture: Callable[..., bytes]) -> None:
    given = [Given(str(number), picture(number), number % 2) for number in range(6)]
    folder = written.write_folders(tmp_path / "r" / "val", given, ("ant", "bee"))
    expected = prepared(folder).content_digest
    assert prepared(f"torchvision:ImageFolder?root={folder}").content_digest == expected
    assert prepared(f"torchvision:ImageNet?root={tmp_path}/r&split=val").content_digest == expected


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("torchvision:CIFAR11?root=.", "torchvision set 'CIFAR11': must be one of CIFAR10, CIFAR100"),
        ("torchvision:SVHN?root=.&split=more", "split='more' of SVHN: must be one of train, test, extra"),
        ("torchvision:SVHN?split=extra", "must read torchvision:NAME[?]root=FOLDER&split=train"),
    ],
)
def test_wrong_torchvision_address_says_what_there_is(address: str, words: str, prepared: Prepared) -> None:
    with pytest.raises(ConfigurationError, match=words):
        prepared(address)


def test_torchvision_set_that_is_not_there(tmp_path: Path, prepared: Prepared) -> None:
    with pytest.raises(SourceError, match="give the root it lies in, or &download=true"):
        prepared(f"torchvision:CIFAR100?root={tmp_path}")
