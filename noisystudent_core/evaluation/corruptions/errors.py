"""Errors under corruption: an evaluator, and the mean corruption error."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

import torch
from torch import Tensor, nn

from noisystudent_core.data.mixing import derive
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.evaluation.corruptions.constants import PROCEDURAL_FROST, SEVERITIES, Generator
from noisystudent_core.evaluation.corruptions.frost import Textures
from noisystudent_core.evaluation.corruptions.generate import corrupt, names
from noisystudent_core.evaluation.metrics import Batches, check_images, check_labels, ranks
from noisystudent_core.evaluation.relative import mean_relative

# mean error of AlexNet over the five severities of ImageNet-C (METHOD section 5)
ALEXNET: Mapping[str, float] = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}


def mean_corruption_error(errors: Mapping[str, float], baseline: Mapping[str, float] = ALEXNET) -> float:
    """mCE in percent points: the mean over corruptions of 100 x error / the baseline's error (METHOD section 5).

    Both map a corruption to its mean error over the severities, a fraction. A first teacher's errors as `baseline` make
    that teacher 100. Raises `ConfigurationError` where the two differ in their corruptions, as AlexNet's and those with
    a procedural frost do, for what is no fraction, and for a baseline of 0.
    """
    if PROCEDURAL_FROST in errors and PROCEDURAL_FROST not in baseline:
        raise ConfigurationError(
            f"{PROCEDURAL_FROST!r} is not the frost of the baseline: a mean with it is no published mCE; give the "
            "errors of another model under the same corruptions as `baseline`, or textures of frost"
        )
    return mean_relative(errors, baseline, "corruption")


def run(
    net: nn.Module,
    batches: Batches,
    *,
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    frost_textures: Textures | None = None,
    generator: Generator | None = None,
) -> Iterator[tuple[str, float]]:
    """Yield (metric, percent) for (uint8 [B, 3, S, S], labels int64 [B]), corrupted on the net's device; one pass.

    `corruption_error/<corruption>/<severity>`, `corruption_error/<corruption>` over the severities,
    `mean_corruption_error` over all (not normalised: see `mean_corruption_error` the function) and `corruption_top1`,
    its complement. Draws are a function of `seed`, corruption, severity and the image's place in the data. The net is a
    `Normalised` one in eval mode. Raises `DataError` without images, `LabelError` for labels that are no class of the
    net, and as `corrupt` does.
    """
    device = next(net.parameters()).device
    kinds = [(name, severity) for name in names(frost_textures) for severity in severities]
    if not kinds:
        raise ConfigurationError("0 severities: give at least 1 of 1 to 5")
    wrong = torch.zeros(len(kinds), dtype=torch.int64, device=device)
    num_images = 0
    for images, labels in batches:
        images, places = images.to(device), torch.arange(num_images, num_images + len(images), device=device)
        for index, (name, severity) in enumerate(kinds):
            seeds = places + derive(seed, name, severity)
            worse = corrupt(images, name, severity, seeds, frost_textures=frost_textures, generator=generator)
            wrong[index] += _num_wrong(net, worse, labels)
        num_images += len(images)
    check_images(num_images)
    yield from _metrics(dict(zip(kinds, (wrong.double() * (100 / num_images)).tolist(), strict=True)))


def _num_wrong(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        logits = net(images)
    check_labels(labels, logits.shape[1])
    return (ranks(logits, labels.to(logits.device)) > 0).sum()


def _metrics(errors: Mapping[tuple[str, int], float]) -> Iterator[tuple[str, float]]:
    by_name: dict[str, list[float]] = {}
    for (name, severity), error in errors.items():
        by_name.setdefault(name, []).append(error)
        yield f"corruption_error/{name}/{severity}", error
    for name, values in by_name.items():
        yield f"corruption_error/{name}", fmean(values)
    mean = fmean(map(fmean, by_name.values()))
    yield "mean_corruption_error", mean
    yield "corruption_top1", 100 - mean
