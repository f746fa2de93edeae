"""Cross entropies on labelled and pseudo-labelled images, and the ways to add them.

B = batch, L = labelled images of a batch, U = unlabelled ones, C = classes.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Weighting = Literal["concat_mean", "sum_of_means", "per_labelled", "unlabelled_only"]


def labelled_loss(logits_LC: Tensor, labels_L: Tensor, label_smoothing: float) -> Tensor:
    """Mean cross entropy with label smoothing (paper section 3.1)."""
    return F.cross_entropy(logits_LC, labels_L, label_smoothing=label_smoothing)


def soft_loss(logits_UC: Tensor, targets_UC: Tensor) -> Tensor:
    """Mean cross entropy against distributions, without smoothing (Algorithm 1, step 3, soft labels)."""
    return F.cross_entropy(logits_UC, targets_UC)


def weigh(labelled: Tensor, unlabelled: Tensor, ratio: float, weighting: Weighting) -> Tensor:
    """Add the two mean losses; `ratio` is unlabelled : labelled images.

    concat_mean (L + rU)/(1+r): the paper's section 3.1; sum_of_means L + U: its Algorithm 1; per_labelled L + rU: the
    reference code; unlabelled_only U: pre-training on pseudo labels (appendix, study 6), in which the labelled images
    of a step count for batch norm's statistics alone.
    """
    match weighting:
        case "concat_mean":
            return (labelled + ratio * unlabelled) / (1 + ratio)
        case "sum_of_means":
            return labelled + unlabelled
        case "per_labelled":
            return labelled + ratio * unlabelled
        case "unlabelled_only":
            return unlabelled


def sharpen(probabilities_UC: Tensor, temperature: float) -> Tensor:
    """p^(1/T), renormalised; T = 1 only renormalises what float16 storage rounded."""
    powered = probabilities_UC.pow(1 / temperature)
    return powered / powered.sum(1, keepdim=True)


def harden(probabilities_UC: Tensor, label_smoothing: float) -> Tensor:
    """One-hot at the most probable class, smoothed like true labels."""
    num_classes = probabilities_UC.shape[1]
    one_hot = F.one_hot(probabilities_UC.argmax(1), num_classes).to(probabilities_UC.dtype)
    return torch.lerp(one_hot, torch.full_like(one_hot, 1 / num_classes), label_smoothing)
