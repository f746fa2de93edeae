"""Benchmarks of ImageNet's classes by timm's lists: ReaL (Beyer et al. 2020) and ImageNet-A (Hendrycks et al. 2021).

Both are folders `<wnid>/<image>` as released: ReaL's images are ImageNet's validation images under their own names.
"""

import json
import re
from functools import cache
from importlib import resources

import torch
from torch import Tensor, nn

from noisystudent_core.errors import DataError, LabelError
from noisystudent_core.evaluation.accuracy import Hits
from noisystudent_core.evaluation.folders import ImageFolder, image_folder
from noisystudent_core.evaluation.metrics import Batches, Results, check_images, measure, ranks

NUM_CLASSES = 1000  # of ImageNet, in wnid order
_VALIDATION_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})\.")


@cache
def imagenet_class_names() -> tuple[str, ...]:
    """The wnids of ImageNet's 1000 classes in their order, which is that of labels."""
    return tuple(_timm_list("imagenet_synsets.txt").split())


@cache
def imagenet_a_class_names() -> tuple[str, ...]:
    """The wnids of the 200 classes of ImageNet-A."""
    return tuple(_timm_list("imagenet_a_synsets.txt").split())


class ImageNetA:
    """top1 and top5 in percent, logits being restricted to the 200 classes of ImageNet-A before they are compared."""

    def __init__(self) -> None:
        self._hits = Hits()
        self._classes = torch.tensor([int(number) for number in _timm_list("imagenet_a_indices.txt").split()])

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """See `Tally`; raises `LabelError` for a net without ImageNet's 1000 classes and labels that are not of A."""
        check_imagenet("ImageNet-A", logits.shape[1])
        classes = self._classes.to(labels.device)
        places = torch.searchsorted(classes, labels).clamp(max=len(classes) - 1)
        if len(other := labels[classes[places] != labels]):
            raise LabelError(f"label {int(other[0])}: must be one of the 200 of ImageNet-A; give its images alone")
        self._hits.add(ranks(logits[:, classes], places), len(classes))

    def results(self) -> Results:
        """See `Tally`."""
        yield from self._hits.results()


class Real:
    """top1 and top5 in percent over the images with labels: a prediction is right that is one of the image's."""

    def __init__(self) -> None:
        self._hits = Hits()
        self._num_images = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """See `Tally`; `labels` bool [B, C]."""
        labelled = labels.any(1)
        logits, labels = logits[labelled], labels[labelled]
        best = logits.masked_fill(~labels, -torch.inf).amax(1, keepdim=True)
        above = ~labels & ~(logits < best)  # a tie or NaN is a miss
        self._hits.add(above.sum(1), logits.shape[1])
        self._num_images += len(labels)

    def results(self) -> Results:
        """See `Tally`; raises `DataError` where no image has a label."""
        check_images(self._num_images)
        yield from self._hits.results()


def imagenet_a(net: nn.Module, batches: Batches) -> Results:
    """Yield top1 and top5 over (uint8 [B, 3, S, S], labels int64 [B] of the 1000 classes); see `ImageNetA`."""
    yield from measure(net, batches, ImageNetA())


def real(net: nn.Module, batches: Batches) -> Results:
    """Yield top1 and top5 over (uint8 [B, 3, S, S], sets of labels bool [B, C]); see `Real`, `with_real_labels`."""
    yield from measure(net, batches, Real())


def imagenet_a_folder(url: str) -> ImageFolder:
    """The 200 folders of ImageNet-A, labels being those of the 1000 classes; errors as in `image_folder`."""
    return image_folder(url, imagenet_class_names(), imagenet_a_class_names())


def with_real_labels(validation: ImageFolder) -> ImageFolder:
    """ImageNet's validation images with ReaL's sets of labels, bool [N, 1000]; images without a label are left out.

    Raises `DataError` for images that are not named as released, ILSVRC2012_val_00000001.JPEG to ..50000.JPEG.
    """
    sets: list[list[int]] = json.loads(_timm_list("imagenet_real_labels.json"))
    known = [(name, found) for name in validation.names if (found := sets[_validation_number(name, len(sets)) - 1])]
    labels = torch.zeros(len(known), NUM_CLASSES, dtype=torch.bool)
    for row, (_, classes) in enumerate(known):
        labels[row, classes] = True
    return ImageFolder(
        folder=validation.folder, names=tuple(name for name, _ in known), labels=labels, digest=validation.digest
    )


def check_imagenet(benchmark: str, num_classes: int) -> None:
    """Raise `LabelError` for a net of other classes than ImageNet's."""
    if num_classes != NUM_CLASSES:
        raise LabelError(
            f"{num_classes} classes: {benchmark} needs a net of ImageNet's {NUM_CLASSES}, in wnid order; give one"
        )


def _validation_number(name: str, num_images: int) -> int:
    found = _VALIDATION_IMAGE.search(name)
    number = int(found[1]) if found else 0
    if not 1 <= number <= num_images:
        raise DataError(
            f"{name}: ReaL knows images by number; must be ILSVRC2012_val_00000001 to {num_images:08d}, as released"
        )
    return number


def _timm_list(name: str) -> str:
    return (resources.files("timm.data") / "_info" / name).read_text()
