"""How often predictions flip along perturbation sequences: an evaluator, flip probabilities and the mean flip rate.

Hendrycks and Dietterich 2019, section 4.3; METHOD section 5.
"""

from collections.abc import Iterable, Iterator, Mapping
from statistics import fmean

import torch
from torch import Tensor, nn

from noisystudent_core.errors import ConfigurationError, DataError
from noisystudent_core.evaluation.metrics import check_images, check_labels, ranks
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
    sets: Iterable[tuple[str, Iterable[tuple[Tensor, int]]]],
    baseline: Mapping[str, float] | None = None,
) -> Iterator[tuple[str, float]]:
    """Yield, in percent, `flip_probability/<perturbation>` as each is measured; then mean_flip_probability, over all
    frames perturbation_top1, and mfr.

    `sets` are (perturbation, sequences), a sequence being (frames uint8 [T, 3, S, S], label). `baseline` as in
    `mean_flip_rate`; None where there is none: no mfr. The net is a `Normalised` one in eval mode. Raises `DataError`
    without images, `LabelError` for labels that are no class of the net, and what `mean_flip_rate` does.
    """
    flips: dict[str, float] = {}
    shares: list[float] = []
    for perturbation, sequences in sets:
        found = [_flips_and_hits(net, frames, label, perturbation) for frames, label in sequences]
        check_images(len(found))
        flips[perturbation] = fmean(flipped for flipped, _ in found)
        shares.append(fmean(right for _, right in found))
        yield f"flip_probability/{perturbation}", 100 * flips[perturbation]
    check_images(len(flips))
    yield "mean_flip_probability", 100 * fmean(flips.values())
    yield "perturbation_top1", 100 * fmean(shares)
    if baseline is not None:
        yield "mfr", mean_flip_rate(flips, baseline)


def _flips_and_hits(net: nn.Module, frames: Tensor, label: int, perturbation: str) -> tuple[float, float]:
    """Of a sequence uint8 [T, 3, S, S]: how often its class flips, and how many of its frames are right, in 0..1."""
    with torch.no_grad():
        logits = net(frames.to(next(net.parameters()).device))
    labels = torch.full((len(frames),), label)
    check_labels(labels, logits.shape[1])
    numbers = torch.arange(len(frames), device=logits.device)
    predictions = torch.where(logits.isnan().any(1), -1 - numbers, logits.argmax(1))  # no number: a flip each time
    flipped = flip_probabilities(predictions[:, None], perturbation)
    hits = ranks(logits, labels.to(logits.device)) == 0
    return flipped.item(), hits.double().mean().item()
