"""What a finished stage wrote: the manifest, published last, whose existence is the stage's completion."""

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import ValidationError

from noisystudent_core import __version__
from noisystudent_core.config.settings import Settings, StageSettings
from noisystudent_core.errors import CorruptArtifactError, ManifestVersionError, SourceError
from noisystudent_core.storage.digests import digest, digest_of
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.sources import file_digest, source_digest
from noisystudent_core.storage.trees import tree_digest

FORMAT = 1
NAME = "manifest.json"

OR = " or "  # between kinds that do equally
KINDS = {  # of the artifact that an input must be, by the first word of what stages call it
    "checkpoint": "checkpoints",
    "evaluation": "evaluations",
    "initial": "checkpoints",
    "exclusions": "exclusions",
    "corrupted": "corrupted",
    "fingerprints": "fingerprints",
    "inspection": "inspections",
    "predictions": "predictions",
    "validation_predictions": "predictions",
    "selection": "selection",
    "images": f"images{OR}selected_images",
    "validation_images": "images",
    "labelled": "images",
    "unlabelled": "images",
    "validation": "images",
    "test": "images",
}

Inputs = Mapping[str, str]  # what a stage calls an input -> the URL of the artifact's folder


class Part(Settings):
    """One stored file of an artifact; `path` is relative to the artifact's folder."""

    path: str
    num_rows: int
    num_bytes: int
    digest: str


class Manifest(Settings):
    """The finished stage: its parts as stored, what it dropped and why, and what it was made from."""

    format: int = FORMAT
    kind: str
    stage: str
    stage_version: int
    key: str
    content_digest: str  # over the parts' digests, in order
    num_rows: int
    parts: tuple[Part, ...]
    drops: dict[str, int]  # reason -> rows left out
    facts: dict[str, Any]  # small results of the stage: counts, tables, final metrics
    config: dict[str, Any]
    inputs: dict[str, str]  # name -> content digest
    versions: dict[str, str]


class Artifact:
    """A finished stage's folder, opened for reading."""

    def __init__(self, folder: Folder, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    @classmethod
    def open(cls, url: str, kind: str | None = None) -> "Artifact":
        """Open the artifact at `url`, of `kind` where that is given ("this or that").

        Raises `SourceError` where no manifest is, or one of another kind, `ManifestVersionError` where it is newer.
        """
        folder = Folder.at(url)
        try:
            manifest = parse(folder.read(NAME), url)
        except FileNotFoundError:
            raise SourceError(f"{url}: no {NAME} there, so no finished artifact; run the stage that makes it") from None
        if kind is not None and manifest.kind not in kind.split(OR):
            raise SourceError(f"{url}: holds {manifest.kind}, must hold {kind}; give the folder of such an artifact")
        return cls(folder, manifest)

    @property
    def url(self) -> str:
        """The folder's address."""
        return self.folder.url

    def read(self, part: Part) -> bytes:
        """A part's bytes; raises `CorruptArtifactError` if they are missing or not those the manifest lists."""
        try:
            data = self.folder.read(part.path)
        except FileNotFoundError:
            raise _corrupt(self.url, part, "is missing") from None
        if digest(data) != part.digest:
            raise _corrupt(self.url, part, f"has digest {digest(data)} where the manifest lists {part.digest}")
        return data

    def check_sizes(self) -> None:
        """Raise `CorruptArtifactError` unless every part exists with its listed size; reads no part."""
        sizes: dict[str, dict[str, int]] = {}
        for part in self.manifest.parts:
            parent, _, name = part.path.rpartition("/")
            if parent not in sizes:
                sizes[parent] = (self.folder / parent).sizes()
            if sizes[parent].get(name) != part.num_bytes:
                found = sizes[parent].get(name)
                raise _corrupt(self.url, part, "is missing" if found is None else f"has {found} bytes")


def content_digest(parts: tuple[Part, ...]) -> str:
    """One digest over parts in order; where they are stored does not enter."""
    return digest("\n".join(part.digest for part in parts).encode())


def stage_key(config: StageSettings, input_digests: Mapping[str, str]) -> str:
    """The name of a stage's artifact: stage, version, settings, and the content digests of its inputs."""
    settings = config.model_dump(mode="json", exclude=set(config.not_in_key))
    return digest_of([config.stage, config.version, settings, dict(input_digests)])


def input_digests(inputs: Inputs) -> dict[str, str]:
    """Content digest of each input artifact; of the raw inputs, `source`, `weights`, `folder` and
    `frost`, the digest of their listing.

    Raises `SourceError` for an input that is missing or of another kind than its name asks for.
    """
    return {name: _input_digest(name, url) for name, url in sorted(inputs.items())}


def _input_digest(name: str, url: str) -> str:
    match name:
        case "source":
            return source_digest(url)
        case "weights":
            return file_digest(url)
        case "folder" | "frost":
            return tree_digest(url)
        case _:
            return Artifact.open(url, KINDS[name.partition(" ")[0]]).manifest.content_digest


def artifact_url(config: StageSettings, digests: Mapping[str, str], root: str) -> str:
    """Where a stage with these settings and inputs puts its artifact: `ROOT/<kind>/<key>`."""
    return (Folder.at(root) / config.kind / stage_key(config, digests)).url


def finished(url: str) -> Manifest | None:
    """The manifest at `url` if its stage is finished, its parts present in full size; None if it never finished.

    Raises `CorruptArtifactError` where a manifest stands but its parts do not.
    """
    folder = Folder.at(url)
    try:
        data = folder.read(NAME)
    except FileNotFoundError:
        return None
    artifact = Artifact(folder, parse(data, url))
    artifact.check_sizes()
    return artifact.manifest


def publish_manifest(
    url: str,
    config: StageSettings,
    digests: Mapping[str, str],
    parts: tuple[Part, ...],
    *,
    drops: Mapping[str, int] | None = None,
    facts: Mapping[str, Any] | None = None,
    num_rows: int | None = None,
) -> Manifest:
    """Finish a stage: write its manifest if absent, and return the one that stands there."""
    manifest = Manifest(
        kind=config.kind,
        stage=config.stage,
        stage_version=config.version,
        key=stage_key(config, digests),
        content_digest=content_digest(parts),
        num_rows=sum(part.num_rows for part in parts) if num_rows is None else num_rows,
        parts=parts,
        drops=dict(sorted((drops or {}).items())),
        facts=dict(facts or {}),
        config=config.model_dump(mode="json"),
        inputs=dict(digests),
        versions=_versions(),
    )
    folder, data = Folder.at(url), (manifest.model_dump_json(indent=1) + "\n").encode()
    return parse(data if folder.publish(NAME, data) else folder.read(NAME), url)


def publish_part(folder: Folder, path: str, data: bytes, num_rows: int) -> Part:
    """Store a part if absent and describe it as it stands there: of two writers, both adopt the winner's bytes."""
    stored = data if folder.publish(path, data) else folder.read(path)
    return Part(path=path, num_rows=num_rows, num_bytes=len(stored), digest=digest(stored))


def parse(data: bytes, url: str) -> Manifest:
    """Read a manifest; raises `ManifestVersionError` for a newer format, `CorruptArtifactError` for anything else."""
    try:
        tree = json.loads(data)
        if tree["format"] > FORMAT:
            raise ManifestVersionError(
                f"{url}: manifest format {tree['format']}; this version reads up to {FORMAT}: upgrade noisy-student"
            )
        return Manifest.model_validate(tree)
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, ManifestVersionError):
            raise
        what = _first_line(error)
        raise CorruptArtifactError(f"{url}/{NAME}: not a manifest ({what}); restore it or delete the folder") from None


def _corrupt(url: str, part: Part, what: str) -> CorruptArtifactError:
    return CorruptArtifactError(
        f"{url}: part {part.path} {what} ({part.num_bytes} bytes were written); "
        f"restore it, or delete {url}/{NAME} and the part to have them made again"
    )


def _first_line(error: Exception) -> str:
    """What is wrong, of pydantic's page the first finding only."""
    if not isinstance(error, ValidationError):
        return str(error)
    finding = error.errors()[0]
    return f"{finding['loc'][0]}: {finding['msg']}"


def _versions() -> dict[str, str]:
    found = {"noisy-student": __version__}
    for name in ("torch", "torchvision", "timm", "pyarrow", "polars"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
