"""Errors under corruption: an evaluator, and the mean corruption error."""

from collections.abc import Iterable, Iterator, Mapping
from statistics import fmean

from torch import nn

from noisystudent_core.errors import ConfigurationError
from noisystudent_core.evaluation.accuracy import Accuracy
from noisystudent_core.evaluation.corruptions.constants import PROCEDURAL_FROST
from noisystudent_core.evaluation.metrics import Batches, check_images, measure, split
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
    net: nn.Module, sets: Iterable[tuple[str, int, Batches]], baseline: Mapping[str, float] | None = None
) -> Iterator[tuple[str, float]]:
    """Yield, in percent, `corruption_error/<corruption>/<severity>` as each is measured; then over the severities
    `corruption_error/<corruption>`, over all `mean_corruption_error` and `corruption_top1`, and mce.

    `sets` are (corruption, severity, batches). `baseline` as in `mean_corruption_error`; None where there is none: no
    mce. The net is a `Normalised` one in eval mode. Raises what that and `metrics.measure` do.
    """
    errors: dict[str, list[float]] = {}
    for corruption, severity, batches in sets:
        found, _ = split(measure(net, batches, Accuracy()))
        errors.setdefault(corruption, []).append(100 - found["top1"])
        yield f"corruption_error/{corruption}/{severity}", errors[corruption][-1]
    check_images(len(errors))
    means = {corruption: fmean(values) for corruption, values in errors.items()}
    for corruption, mean in means.items():
        yield f"corruption_error/{corruption}", mean
    yield "mean_corruption_error", fmean(means.values())
    yield "corruption_top1", 100 - fmean(means.values())
    if baseline is not None:
        yield "mce", mean_corruption_error({name: mean / 100 for name, mean in means.items()}, baseline)
