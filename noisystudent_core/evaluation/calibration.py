"""Calibration: whether of the images that a net is 80% sure of, 80% are right (Guo et al. 2017, section 2)."""

import torch
from torch import Tensor

from noisystudent_core.evaluation.metrics import Array, Results, ranks

NUM_BINS = 15  # of equal width; bin b holds confidences in (b/15, (b+1)/15]


class Calibration:
    """ece, the expected calibration error in percent, and what a reliability diagram shows.

    Arrays [15], by bins of the confidence: reliability_images (counts), reliability_confidence (mean, in percent) and
    reliability_top1, NaN where a bin is empty. Confidences that are no number make ece NaN.
    """

    def __init__(self) -> None:
        self._sums = torch.zeros(NUM_BINS, 3, dtype=torch.float64)  # images, their confidences, hits

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """See `Tally`."""
        confidence = logits.double().softmax(1).amax(1)
        bins = (confidence.nan_to_num() * NUM_BINS).ceil().long().clamp(1, NUM_BINS) - 1
        hits = (ranks(logits, labels) == 0).double()
        members = torch.nn.functional.one_hot(bins, NUM_BINS).double()
        counted = torch.stack([torch.ones_like(hits), confidence, hits], 1)
        self._sums += (members.T @ counted).cpu()

    def results(self) -> Results:
        """See `Tally`."""
        images, confidences, hits = self._sums.T
        yield "ece", float(100 * (hits - confidences).abs().sum() / images.sum())
        yield "reliability_images", Array(values=images.long().numpy(), axes=("bin",))
        yield "reliability_confidence", Array(values=(100 * confidences / images).numpy(), axes=("bin",))
        yield "reliability_top1", Array(values=(100 * hits / images).numpy(), axes=("bin",))
