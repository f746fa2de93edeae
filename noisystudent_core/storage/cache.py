"""A local folder of parts that were read from a bucket, shared by all processes of a machine."""

import fcntl
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from noisystudent_core.errors import ConfigurationError
from noisystudent_core.storage.digests import digest
from noisystudent_core.storage.manifest import Artifact, Part

OURS = re.compile(r"[0-9a-f]{32}\.part|\.[0-9a-f]{32}\.tmp")

Say = Callable[[str], None]
ReadPart = Callable[[Artifact, Part], bytes]


class PartCache:
    """`cache(artifact, part)`: a part's bytes, from the folder or else from the bucket; the digest is checked.

    The folder holds `<digest>.part` files of at most `max_bytes` in all, those longest unused dropped first, and locks;
    other files in it are not touched. Of processes that want the same part at once, one fetches it. Where the folder
    cannot take a part, `say` is told once, and parts are read from the bucket. Local artifacts are read where they are.
    Raises `ConfigurationError` for a folder that cannot be written at all.
    """

    def __init__(self, folder: str, max_bytes: int, say: Say) -> None:
        self._folder, self._max_bytes = Path(folder).expanduser(), max_bytes
        self._say, self._has_said = say, False
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._locked("room"):
                pass
        except OSError as error:
            raise ConfigurationError(
                f"execution.cache_dir={folder}: cannot be written ({error.strerror}); give a folder on a local disk, "
                "or null to do without"
            ) from error

    def __call__(self, artifact: Artifact, part: Part) -> bytes:
        """See the class; raises `CorruptArtifactError` where the bucket's bytes are not those of the manifest."""
        if artifact.folder.is_local:
            return artifact.read(part)
        held = self._held(part)
        if held is not None:
            return held
        try:
            with self._locked(part.digest[:2]):
                return self._held(part) or self._fetch(artifact, part)
        except OSError as error:
            if error.filename is None or Path(error.filename).parent != self._folder:
                raise
            self._explain(error)
            return artifact.read(part)

    def _held(self, part: Part) -> bytes | None:
        """The part as it lies in the folder, now used most recently; a damaged file counts as none."""
        path = self._path(part)
        with suppress(OSError):
            data = path.read_bytes()
            if digest(data) == part.digest:
                with suppress(OSError):  # another user's file
                    _touch(path)
                return data
        return None

    def _fetch(self, artifact: Artifact, part: Part) -> bytes:
        data = artifact.read(part)
        if len(data) <= self._max_bytes:
            try:
                self._store(part, data)
            except OSError as error:
                self._explain(error)
        return data

    def _store(self, part: Part, data: bytes) -> None:
        """Write beside and rename, when there is room: readers see the whole file or none, and the limit holds."""
        beside = self._folder / f".{uuid.uuid4().hex}.tmp"
        with self._locked("room"):
            self._path(part).unlink(missing_ok=True)
            self._make_room(len(data))
            try:
                beside.write_bytes(data)
                _touch(beside)
                beside.replace(self._path(part))
            finally:
                beside.unlink(missing_ok=True)

    def _make_room(self, num_bytes: int) -> None:
        """Drop the parts longest unused until `num_bytes` more are within the limit."""
        files = sorted((used, size, path) for path, size, used in self._files())
        total = num_bytes + sum(size for _, size, _ in files)
        for _, size, path in files:
            if total > self._max_bytes or path.suffix == ".tmp":
                path.unlink(missing_ok=True)
                total -= size

    def _files(self) -> Iterator[tuple[Path, int, int]]:
        """Path, size and time of last use of each part; and of what a writer left when it died: it held the lock."""
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if OURS.fullmatch(entry.name):
                    status = entry.stat()
                    yield Path(entry.path), status.st_size, status.st_mtime_ns

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Wait until no other process or thread holds this lock; it falls with its process."""
        with (self._folder / f".{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _explain(self, error: OSError) -> None:
        if not self._has_said:
            self._has_said = True
            self._say(f"execution.cache_dir={self._folder} takes no more parts ({error.strerror}): reading the bucket")

    def _path(self, part: Part) -> Path:
        return self._folder / f"{part.digest}.part"


def _touch(path: Path) -> None:
    """Note that a file is used now, to the nanosecond: the kernel's own clock takes steps of milliseconds."""
    now = time.time_ns()
    os.utime(path, ns=(now, now))
