"""Sets of images as `prepare` leaves them: one artifact, or a folder with one for each side of a split."""

from collections.abc import Mapping

from noisystudent_core.config.run import SPLITS
from noisystudent_core.errors import ConfigurationError, DataError
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import NAME, Artifact

IMAGES = "images"  # what a set that is no side of a split is called
INSPECTION = "inspection"  # first word of the inspections of a set among a stage's inputs
INSPECTED = ".inspected"  # root, below what was prepared, of its inspection
PAGE = "inspection.html"


def prepared_sets(url: str) -> dict[str, str]:
    """The artifacts at `url` by name: those of a split, or one alone; empty where none is.

    Raises `SourceError` for an artifact that is not of images.
    """
    folder = Folder.at(url)
    if folder.exists(NAME):
        return {IMAGES: Artifact.open(url, IMAGES).url}
    found = {split: folder / split for split in SPLITS}
    return {split: place.url for split, place in found.items() if place.exists(NAME)}


def classes_of(url: str | None) -> tuple[str, ...] | None:
    """The class names of a prepared artifact, None without one; raises `ConfigurationError` where it has none."""
    if url is None:
        return None
    names = Artifact.open(url, IMAGES).manifest.facts.get("class_names")
    if not names:
        raise ConfigurationError(f"--classes-of {url}: has no class names; give --num-classes or --class-names")
    return tuple(names)


def inspection_root(url: str) -> str:
    """Where the inspection of what was prepared at `url` goes."""
    return (Folder.at(url) / INSPECTED).url


def inspection_inputs(images: Mapping[str, str], inspections: Mapping[str, str]) -> dict[str, str]:
    """The inputs of the stage `inspect`: sets, and what was kept of the images of each."""
    return {**images, **{f"{INSPECTION} {name}": url for name, url in inspections.items()}}


def put_page(inspected: str, url: str) -> str:
    """Put an inspection's page beside what was prepared at `url`, in place of an earlier one; returns its address."""
    folder = Folder.at(url)
    folder.remove(PAGE)
    folder.publish(PAGE, Folder.at(inspected).read(PAGE))
    return f"{folder.url}/{PAGE}"


def refuse_leaks(inspected: str, allowed: bool) -> None:
    """Raise `DataError` where evaluation images were found among those for training, unless that is allowed."""
    facts = Artifact.open(inspected).manifest.facts
    if facts["leaks"] and not allowed:
        errors = "; ".join(finding["text"] for finding in facts["findings"] if finding["level"] == "error")
        raise DataError(f"evaluation images among those for training: {errors}. Or allow leaks: --allow-leaks")
