"""Torchvision's data sets by name: `torchvision:CIFAR10?root=FOLDER&split=train`, with `&download=true` fetched there.

A set is known by its name and split alone: torchvision checks its files' MD5. Pixels become portable pixmaps, as in
`idx`. ImageNet and ImageFolder are folders of classes, and are read as such.
"""

from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from noisystudent_core.data.sources.idx import pixmap
from noisystudent_core.data.sources.samples import Sample, Samples
from noisystudent_core.errors import ConfigurationError, SourceError
from noisystudent_core.storage.listing import torchvision_name
from noisystudent_core.storage.sources import SourceFile

TRAIN_TEST = ("train", "test")
SETS = {
    "CIFAR10": TRAIN_TEST,
    "CIFAR100": TRAIN_TEST,
    "FashionMNIST": TRAIN_TEST,
    "MNIST": TRAIN_TEST,
    "SVHN": ("train", "test", "extra"),
    "STL10": ("train", "test", "unlabeled", "train+unlabeled"),
}


def read(file: SourceFile, *, with_labels: bool) -> Samples:
    """Every image in the set's order; -1, torchvision's "no label", is none."""
    opened, name = _open(file), file.name
    for row in range(len(opened)):
        image, label = opened[row]
        known = label if with_labels and label is not None and label >= 0 else None
        yield Sample(pixmap(np.asarray(image)), known, f"{name}:{row}")


def class_names(file: SourceFile) -> tuple[str, ...] | None:
    """The set's own names, where it has some."""
    found = getattr(_open(file), "classes", None)
    return None if found is None else tuple(found)


def _open(file: SourceFile) -> Any:
    name, split = torchvision_name(file.path)
    given = dict(parse_qsl(file.path.partition("?")[2]))
    if name not in SETS:
        raise ConfigurationError(f"torchvision set {name!r}: must be one of {', '.join(SETS)}, ImageNet, ImageFolder")
    if split not in SETS[name]:
        raise ConfigurationError(f"split={split!r} of {name}: must be one of {', '.join(SETS[name])}")
    from torchvision import datasets  # PyTorch, that all other intake does without

    wanted: dict[str, Any] = {"train": split == "train"} if SETS[name] == TRAIN_TEST else {"split": split}
    try:
        return getattr(datasets, name)(given["root"], download=given.get("download") == "true", **wanted)
    except (RuntimeError, OSError) as error:
        raise SourceError(f"{file.path}: {error}; give the root it lies in, or &download=true") from None
    except ImportError as error:
        raise SourceError(f"{file.path}: torchvision reads it with a library that is missing ({error})") from None
