"""How often predictions flip along perturbation sequences: an evaluator, flip probabilities and the mean flip rate.

Hendrycks and Dietterich 2019, section 4.3; METHOD section 5.
"""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

import torch
from torch import Tensor, nn

from noisystudent_core.data.mixing import derive
from noisystudent_core.errors import ConfigurationError, DataError
from noisystudent_core.evaluation.corruptions.constants import Generator
from noisystudent_core.evaluation.metrics import Batches, check_images, check_labels, ranks
from noisystudent_core.evaluation.relative import mean_relative
from noisystudent_core.evaluation.sequences import frames, perturbation_sequence

__all__ = ["ALEXNET", "NAMES", "flip_probabilities", "frames", "mean_flip_rate", "perturbation_sequence", "run"]

# AlexNet's flip probabilities on ImageNet-P (METHOD section 5)
ALEXNET: Mapping[str, float] = {
    "gaussian_noise": 0.2365,
    "shot_noise": 0.3006,
    "motion_blur": 0.0930,
    "zoom_blur": 0.0594,
    "snow": 0.1193,
    "brightness": 0.0489,
    "translate": 0.1101,
    "rotate": 0.1310,
    "tilt": 0.0705,
    "scale": 0.2353,
}
NAMES = tuple(ALEXNET)


def mean_flip_rate(flip_probabilities: Mapping[str, float], baseline: Mapping[str, float] = ALEXNET) -> float:
    """mFR in percent points: the mean over perturbations of 100 x flip probability / the baseline's (METHOD section 5).

    Both map a perturbation to a fraction. A first teacher's as `baseline` make that teacher 100. Raises
    `ConfigurationError` where the two differ in their perturbations, for what is no fraction, and for a baseline of 0.
    """
    return mean_relative(flip_probabilities, baseline, "perturbation")


def flip_probabilities(predictions_TB: Tensor, name: str) -> Tensor:
    """The share of each sequence's T - 1 later frames whose class differs: predictions int64 [T, B], result float64
    [B].

    Frames of the noise perturbations are compared with the first one, others with the one before. Raises
    `ConfigurationError` for an unknown name, `DataError` for fewer than two frames.
    """
    if name not in ALEXNET:
        raise ConfigurationError(f"perturbation {name!r}: must be one of {', '.join(ALEXNET)}")
    if len(predictions_TB) < 2:
        raise DataError(f"{len(predictions_TB)} frames of {name}: must be at least 2; read the whole sequence")
    before = predictions_TB[:1] if name.endswith("_noise") else predictions_TB[:-1]
    return (predictions_TB[1:] != before).double().mean(0)


def run(
    net: nn.Module,
    batches: Batches,
    *,
    perturbations: Sequence[str] = NAMES,
    seed: int = 0,
    crop_px: int | None = None,
    generator: Generator | None = None,
) -> Iterator[tuple[str, float]]:
    """Yield (metric, percent) for (uint8 [B, 3, S, S], labels int64 [B]), perturbed on the net's device; one pass.

    `flip_probability/<perturbation>`, `mean_flip_probability` (not normalised: see `mean_flip_rate`) and
    `perturbation_top1` over all frames. Draws are a function of `seed`, perturbation and the image's place in the data.
    The net is a `Normalised` one in eval mode and sees `crop_px`, if given. Raises `DataError` without images,
    `LabelError` for labels that are no class of the net, and as `frames` does.
    """
    device = next(net.parameters()).device
    flips: dict[str, list[Tensor]] = {name: [] for name in perturbations}
    hits: dict[str, list[Tensor]] = {name: [] for name in perturbations}
    num_images = 0
    for images, labels in batches:
        images, places = images.to(device), torch.arange(num_images, num_images + len(images), device=device)
        for name in perturbations:
            seeds = places + derive(seed, name, 0)
            sequence = frames(images, name, seeds, crop_px=crop_px, generator=generator)
            predictions, right = _predict(net, sequence, labels)
            flips[name].append(flip_probabilities(predictions, name))
            hits[name].append(right.double().mean(0))
        num_images += len(images)
    check_images(num_images)
    yield from _metrics(*({name: _percent(parts) for name, parts in each.items()} for each in (flips, hits)))


def _predict(net: nn.Module, sequence: Iterator[Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
    """Classes int64 [T, B] and whether they are right; logits that are no number are a flip each time."""
    predictions, right = [], []
    for number, frame in enumerate(sequence):
        with torch.no_grad():
            logits = net(frame)
        if number == 0:
            check_labels(labels, logits.shape[1])
            labels = labels.to(logits.device)
        predictions.append(logits.argmax(1).masked_fill(logits.isnan().any(1), -1 - number))
        right.append(ranks(logits, labels) == 0)
    return torch.stack(predictions), torch.stack(right)


def _percent(parts: Sequence[Tensor]) -> float:
    return 100 * torch.cat(list(parts)).mean().item()


def _metrics(flips: Mapping[str, float], hits: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    for name, value in flips.items():
        yield f"flip_probability/{name}", value
    if flips:
        yield "mean_flip_probability", fmean(flips.values())
        yield "perturbation_top1", fmean(hits.values())
