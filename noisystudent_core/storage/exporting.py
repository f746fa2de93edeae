"""A root's results in a few files of bounded size: every manifest, and the parts of what is small."""

import hashlib
import io
import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field

from noisystudent_core.errors import ConfigurationError
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import NAME, Artifact
from noisystudent_core.storage.verify import artifact_urls

SMALL = ("checkpoints", "evaluations", "reports")  # kinds whose parts are packed; others can be made anew
INNER = ("ingest",)  # stages within a stage, which makes them again when it is made anew
MAX_BYTES = 16_000_000  # of a file
PIECE = "artifacts.tar."
SUMS = "SHA256SUMS"  # written last: an export without it was cut short


def export(root: str, out: str, *, max_bytes: int = MAX_BYTES, everything: bool = False) -> list[str]:
    """Pack a root's artifacts into files of at most `max_bytes` in the folder `out`; returns their names.

    They are the pieces of one tar, the same bytes for the same artifacts: `cat OUT/*.tar.* | tar -x -C ROOT` unpacks
    them. Every manifest is in it, after its parts; parts of other kinds than `SMALL`, and what is `INNER`, only with
    `everything`.

    Raises `SourceError` where no artifact is under `root`, `CorruptArtifactError` for missing or changed parts, and
    `ConfigurationError` for an `out` that holds files already.
    """
    folder = Folder.at(out)
    if taken := folder.sizes():
        raise ConfigurationError(f"{out}: holds {len(taken)} files ({min(taken)}, ...); export into an empty folder")
    pieces = _Pieces(folder, max_bytes)
    with tarfile.open(fileobj=pieces, mode="w|", format=tarfile.PAX_FORMAT) as tar:  # pyright: ignore
        for path, data in _files(root, everything):
            header = tarfile.TarInfo(path)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    pieces.close()
    folder.publish(SUMS, "".join(f"{found}  {name}\n" for name, found in pieces.written.items()).encode())
    return list(pieces.written)


def _files(root: str, everything: bool) -> Iterator[tuple[str, bytes]]:
    """Path below the root, and bytes, of every file to pack, each once."""
    packed: set[str] = set()
    for url in artifact_urls(root):
        artifact = Artifact.open(url)
        if artifact.manifest.stage in INNER and not everything:
            continue
        home = posixpath.relpath(artifact.folder.path, Folder.at(root).path)
        if everything or artifact.manifest.kind in SMALL:
            for part in artifact.manifest.parts:
                path = posixpath.normpath(f"{home}/{part.path}")
                if path not in packed:
                    packed.add(path)
                    yield path, artifact.read(part)
        yield f"{home}/{NAME}", artifact.folder.read(NAME)


@dataclass
class _Pieces:
    """A file to write to that is stored in pieces."""

    folder: Folder
    max_bytes: int
    written: dict[str, str] = field(default_factory=dict)  # SHA-256 by name
    _waiting: bytearray = field(default_factory=bytearray)

    def write(self, data: bytes) -> int:
        self._waiting += data
        while len(self._waiting) >= self.max_bytes:
            self._store(self.max_bytes)
        return len(data)

    def close(self) -> None:
        if self._waiting:
            self._store(len(self._waiting))

    def _store(self, num_bytes: int) -> None:
        name, data = f"{PIECE}{len(self.written):03d}", bytes(self._waiting[:num_bytes])
        del self._waiting[:num_bytes]
        self.folder.publish(name, data)
        self.written[name] = hashlib.sha256(data).hexdigest()
