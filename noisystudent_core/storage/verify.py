"""Checking every artifact under a root against its manifest."""

from collections.abc import Iterator

from noisystudent_core.errors import DataError, SourceError
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import NAME, Artifact


def artifact_urls(root: str) -> list[str]:
    """Every artifact under `root`, in order; raises `SourceError` where there is none."""
    folder = Folder.at(root)
    found = sorted(path for path in folder.fs.find(folder.path) if path.endswith(f"/{NAME}"))
    if not found:
        raise SourceError(f"{root}: no artifact under it; give the root that a run was given")
    return [Folder(folder.fs, path.removesuffix(f"/{NAME}")).url for path in found]


def problems(url: str) -> Iterator[str]:
    """Everything that is wrong with one artifact: an unreadable manifest, or parts that are missing or changed."""
    try:
        artifact = Artifact.open(url)
    except DataError as error:
        yield str(error)
        return
    for part in artifact.manifest.parts:
        try:
            artifact.read(part)
        except DataError as error:
            yield str(error)
