"""ImageNet-C and ImageNet-P, and their likes for other classes, from folders laid out as released.

ImageNet-C is `<corruption>/<severity>/<wnid>/<image>`, ImageNet-P `<perturbation>/<wnid>/<video>.mp4`. Both are
measured at the 224 and at the 299 release, resized to the resolution that the net was trained at, before that is fixed
(METHOD section 5; paper, section 3.4). Source: Hendrycks and Dietterich 2019.
"""

from collections.abc import Sequence
from dataclasses import replace

from noisystudent_core.errors import SourceError
from noisystudent_core.evaluation import corruptions as of_c
from noisystudent_core.evaluation import perturbations as of_p
from noisystudent_core.evaluation.folders import (
    ImageFolder,
    SequenceFolder,
    folders_in,
    image_folder,
    sequence_folder,
)
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.trees import some


def corruption_folders(
    url: str,
    class_names: Sequence[str],
    corruptions: Sequence[str] = of_c.NAMES,
    severities: Sequence[int] = of_c.SEVERITIES,
) -> list[tuple[str, int, ImageFolder]]:
    """(corruption, severity, images) of every folder, all listed before an image is read: all have the same images.

    Raises `SourceError` for corruptions and severities that are missing, what `image_folder` raises, and `SourceError`
    for images that not all of the folders have.
    """
    root = Folder.at(url)
    _check_levels(root, corruptions, severities)
    found: list[tuple[str, int, ImageFolder]] = []
    for corruption in corruptions:
        for severity in severities:
            images = image_folder((root / corruption / str(severity)).url, class_names)
            first = found[0][2] if found else images
            if differing := sorted(set(images.names).symmetric_difference(first.names)):
                raise SourceError(
                    f"{images.folder.url}: {len(images)} images, {first.folder.url}: {len(first)}; {some(differing)} "
                    "are in one alone: all severities must have the same; unpack the benchmark again"
                )
            # 75 lists of 50,000 equal names are one in memory
            found.append((corruption, severity, replace(images, names=first.names, labels=first.labels)))
    return found


def perturbation_folders(
    url: str, class_names: Sequence[str], perturbations: Sequence[str] = of_p.NAMES
) -> list[tuple[str, SequenceFolder]]:
    """(perturbation, sequences) of every folder, all listed before a frame is read.

    Raises `SourceError` for perturbations that are missing, before anything is listed, and what `sequence_folder` does.
    """
    root = Folder.at(url)
    _check_named(root, perturbations, "perturbations")
    return [(name, sequence_folder((root / name).url, class_names)) for name in perturbations]


def class_folders(url: str, benchmark: str) -> list[str]:
    """The folders of classes of an "imagenet_c", an "imagenet_p", or of any other folder of them, by name.

    Raises `SourceError` for corruptions, severities and perturbations that are missing.
    """
    root = Folder.at(url)
    if benchmark == "imagenet_c":
        _check_levels(root, of_c.NAMES, of_c.SEVERITIES)
        root = root / of_c.NAMES[0] / str(of_c.SEVERITIES[0])
    if benchmark == "imagenet_p":
        _check_named(root, of_p.NAMES, "perturbations")
        root = root / of_p.NAMES[0]
    return folders_in(root)


def _check_levels(root: Folder, corruptions: Sequence[str], severities: Sequence[int]) -> None:
    _check_named(root, corruptions, "corruptions")
    for corruption in corruptions:
        _check_named(root / corruption, list(map(str, severities)), "severities")


def _check_named(folder: Folder, wanted: Sequence[str], kind: str) -> None:
    found = folders_in(folder)
    if missing := [name for name in wanted if name not in found]:
        raise SourceError(
            f"{folder.url}: lacks {len(missing)} of {len(wanted)} {kind} ({some(missing)}), has "
            f"{some(found) or 'no folder'}; unpack all of the benchmark's archives into one folder"
        )
