"""All that one pass over labelled images tells: accuracy, class by class, and whether confidences can be believed."""

import numpy as np
import torch
from torch import Tensor, nn

from noisystudent_core.evaluation.accuracy import Accuracy
from noisystudent_core.evaluation.calibration import Calibration
from noisystudent_core.evaluation.metrics import Array, Batches, Results, measure, ranks

MAX_CONFUSION_CLASSES = 2048  # 32 MB of counts


class Classes:
    """macro_f1 in percent; arrays class_top1 [C] in percent, class_images [C] and confusion [C, C].

    macro_f1 is the mean over the classes that an image has or was given. A tie is a miss, as in top1: the prediction is
    then another class than the true one. With more than `MAX_CONFUSION_CLASSES` classes there is no confusion.
    """

    def __init__(self) -> None:
        self._labels: list[Tensor] = []
        self._predictions: list[Tensor] = []
        self._num_classes = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """See `Tally`."""
        others = logits.scatter(1, labels[:, None], -torch.inf).argmax(1)
        self._predictions.append(torch.where(ranks(logits, labels) == 0, labels, others).cpu())
        self._labels.append(labels.cpu())
        self._num_classes = logits.shape[1]

    def results(self) -> Results:
        """See `Tally`."""
        labels, predictions = torch.cat(self._labels).numpy(), torch.cat(self._predictions).numpy()
        num_classes = self._num_classes
        true, given = np.bincount(labels, minlength=num_classes), np.bincount(predictions, minlength=num_classes)
        hits = np.bincount(labels[labels == predictions], minlength=num_classes)
        seen = true + given > 0
        yield "macro_f1", float(100 * np.mean(2 * hits[seen] / (true + given)[seen]))
        shares = np.full(num_classes, np.nan)
        np.divide(100 * hits, true, out=shares, where=true > 0)
        yield "class_top1", Array(values=shares, axes=("class",))
        yield "class_images", Array(values=true, axes=("class",))
        if num_classes <= MAX_CONFUSION_CLASSES:
            counts = np.bincount(labels * num_classes + predictions, minlength=num_classes**2)
            yield "confusion", Array(values=counts.reshape(num_classes, num_classes), axes=("true", "predicted"))


def run(net: nn.Module, batches: Batches) -> Results:
    """Yield the numbers of `accuracy.run`, macro_f1 and ece, and the arrays of `Classes` and `Calibration`."""
    yield from measure(net, batches, Accuracy(), Classes(), Calibration())
