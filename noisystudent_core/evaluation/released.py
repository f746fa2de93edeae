"""ImageNet-C and ImageNet-P, and their likes for other classes, from folders laid out as released.

ImageNet-C is `<corruption>/<severity>/<wnid>/<image>`, ImageNet-P `<perturbation>/<wnid>/<video>.mp4`. Both are
measured at the 224 and at the 299 release, resized to the resolution that the net was trained at, before that is fixed
(METHOD section 5; paper, section 3.4). Source: Hendrycks and Dietterich 2019.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean

import torch
from torch import Tensor, nn

from noisystudent_core.errors import SourceError
from noisystudent_core.evaluation import corruptions as of_c
from noisystudent_core.evaluation import perturbations as of_p
from noisystudent_core.evaluation.accuracy import Accuracy
from noisystudent_core.evaluation.folders import (
    ImageFolder,
    SequenceFolder,
    folders_in,
    image_folder,
    sequence_folder,
)
from noisystudent_core.evaluation.metrics import Batches, check_images, check_labels, measure, ranks, split
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.trees import some


def corruption_folders(
    url: str,
    class_names: Sequence[str],
    corruptions: Sequence[str] = of_c.NAMES,
    severities: Sequence[int] = of_c.SEVERITIES,
) -> Iterator[tuple[str, int, ImageFolder]]:
    """Yield (corruption, severity, images), each folder being listed when it is its turn: all have the same images.

    Raises, before anything is listed, `SourceError` for corruptions and severities that are missing; then what
    `image_folder` raises, and `SourceError` for images that not all of the folders have.
    """
    root = Folder.at(url)
    _check_named(root, corruptions, "corruptions")
    for corruption in corruptions:
        _check_named(root / corruption, list(map(str, severities)), "severities")
    return _corruption_folders(root, class_names, corruptions, severities)


def perturbation_folders(
    url: str, class_names: Sequence[str], perturbations: Sequence[str] = of_p.NAMES
) -> Iterator[tuple[str, SequenceFolder]]:
    """Yield (perturbation, sequences), each folder being listed when it is its turn.

    Raises `SourceError` for perturbations that are missing, before anything is listed, and what `sequence_folder` does.
    """
    root = Folder.at(url)
    _check_named(root, perturbations, "perturbations")
    return ((name, sequence_folder((root / name).url, class_names)) for name in perturbations)


def imagenet_c(
    net: nn.Module, sets: Iterable[tuple[str, int, Batches]], baseline: Mapping[str, float] | None = of_c.ALEXNET
) -> Iterator[tuple[str, float]]:
    """Yield, in percent, `corruption_error/<corruption>/<severity>` as each is measured; then over the severities
    `corruption_error/<corruption>`, over all `mean_corruption_error` and `corruption_top1`, and mce.

    `sets` are (corruption, severity, batches), as of `corruption_folders`. `baseline` as in `mean_corruption_error`;
    None where there is none: no mce. Raises what these two and `metrics.measure` do.
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
        yield "mce", of_c.mean_corruption_error({name: mean / 100 for name, mean in means.items()}, baseline)


def imagenet_p(
    net: nn.Module,
    sets: Iterable[tuple[str, Iterable[tuple[Tensor, int]]]],
    baseline: Mapping[str, float] | None = of_p.ALEXNET,
) -> Iterator[tuple[str, float]]:
    """Yield, in percent, `flip_probability/<perturbation>` as each is measured; then mean_flip_probability, over all
    frames perturbation_top1, and mfr.

    `sets` are (perturbation, sequences), as of `perturbation_folders`, a sequence being (frames uint8 [T, 3, S, S],
    label). `baseline` as in `mean_flip_rate`; None where there is none: no mfr. Raises what these two and
    `metrics.measure` do.
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
        yield "mfr", of_p.mean_flip_rate(flips, baseline)


def _flips_and_hits(net: nn.Module, frames: Tensor, label: int, perturbation: str) -> tuple[float, float]:
    """Of a sequence uint8 [T, 3, S, S]: how often its class flips, and how many of its frames are right, in 0..1."""
    with torch.no_grad():
        logits = net(frames.to(next(net.parameters()).device))
    labels = torch.full((len(frames),), label)
    check_labels(labels, logits.shape[1])
    numbers = torch.arange(len(frames), device=logits.device)
    predictions = torch.where(logits.isnan().any(1), -1 - numbers, logits.argmax(1))  # no number: a flip each time
    flipped = of_p.flip_probabilities(predictions[:, None], perturbation)
    hits = ranks(logits, labels.to(logits.device)) == 0
    return flipped.item(), hits.double().mean().item()


def _corruption_folders(
    root: Folder,
    class_names: Sequence[str],
    corruptions: Sequence[str],
    severities: Sequence[int],
) -> Iterator[tuple[str, int, ImageFolder]]:
    first: ImageFolder | None = None
    for corruption in corruptions:
        for severity in severities:
            images = image_folder((root / corruption / str(severity)).url, class_names)
            first = first or images
            if differing := sorted(set(images.names).symmetric_difference(first.names)):
                raise SourceError(
                    f"{images.folder.url}: {len(images)} images, {first.folder.url}: {len(first)}; {some(differing)} "
                    "are in one alone: all severities must have the same; unpack the benchmark again"
                )
            yield corruption, severity, images


def _check_named(folder: Folder, wanted: Sequence[str], kind: str) -> None:
    found = folders_in(folder)
    if missing := [name for name in wanted if name not in found]:
        raise SourceError(
            f"{folder.url}: lacks {len(missing)} of {len(wanted)} {kind} ({some(missing)}), has "
            f"{some(found) or 'no folder'}; unpack all of the benchmark's archives into one folder"
        )
