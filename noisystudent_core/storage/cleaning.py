"""Removing the artifacts of a root that no kept run refers to.

A manifest goes first, so that nothing half removed counts as finished. What is to go is listed in the root before the
first deletion: whoever cleans next finishes what a killed process left. Runs and `clean` see one another's leases and
notes (`run_records`): a stage waits while artifacts are removed, and what a run uses or has just made stays.
"""

import json
import posixpath
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from noisystudent_core.errors import ConfigurationError, RootError, SourceError
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.lease import held_since, leased
from noisystudent_core.storage.manifest import NAME, Manifest, parse
from noisystudent_core.storage.run_records import CLEANING, RUNS, RunRecord, records

JOURNAL = "removing.json"  # in CLEANING
RECEIPTS = "receipts"  # of a folder that passes share: they tell of parts
STATE = "state"


@dataclass(frozen=True)
class Cleaning:
    """What goes: whole artifacts by path below the root, all files in order, and the runs whose notes go with them."""

    artifacts: tuple[str, ...]
    files: tuple[str, ...]  # manifests first
    num_bytes: int
    runs: tuple[RunRecord, ...]
    kept: tuple[RunRecord, ...]
    left: tuple[str, ...]  # "path: why", of artifacts that might go and stay for now


def plan(root: str, keep_runs: int) -> Cleaning:
    """What `clean` would remove; nothing is.

    Raises `ConfigurationError` for fewer than one run to keep, `SourceError` where no run has left notes, and
    `CorruptArtifactError` where a manifest cannot be read, as nobody knows what it refers to.
    """
    if keep_runs < 1:
        raise ConfigurationError(f"keep_runs={keep_runs}: must be >= 1; to remove everything, delete the root")
    folder = Folder.at(root)
    known = records(folder)
    if not known:
        raise SourceError(f"{root}: no run has left notes under {RUNS}/, so nobody knows what is used; run once first")
    return _Root(folder, known).cleaning(keep_runs)


def clean(root: str, keep_runs: int, say: Callable[[str], None] = lambda text: None) -> Cleaning:
    """Remove the artifacts of this root that none of the newest `keep_runs` runs, nor one that lasts, refers to.

    First finishes what an earlier `clean` left. Raises as `plan` does, before anything is removed.
    """
    folder = Folder.at(root)
    place = folder / CLEANING
    plan(root, keep_runs)
    with leased(place, say):
        _finish_earlier(folder, say)
        found = plan(root, keep_runs)  # stages that began before the lease have left their notes
        _remove(folder, found.files)
        for run in found.runs:
            (folder / RUNS / run.digest).remove_all()
        place.remove_all()
    return found


class _Root:
    """All that lies under a root: files by path with size and age, manifests by their folder's path."""

    def __init__(self, folder: Folder, known: list[RunRecord]) -> None:
        self.folder, self.known = folder, known
        base = f"{folder.path}/"
        listing: Any = folder.fs.find(folder.path, detail=True)
        self.sizes = {str(path).removeprefix(base): entry["size"] for path, entry in listing.items()}
        self.manifests = {
            posixpath.dirname(path): parse(folder.read(path), f"{folder.url}/{posixpath.dirname(path)}")
            for path in self.sizes
            if path.endswith(f"/{NAME}") and not path.startswith((f"{RUNS}/", f"{STATE}/"))
        }
        self.parts = {path: _part_paths(path, manifest) for path, manifest in self.manifests.items()}

    def cleaning(self, keep_runs: int) -> Cleaning:
        kept = [run for place, run in enumerate(self.known) if place < keep_runs or run.active_since is not None]
        dropped = [run for run in self.known if run not in kept]
        used = self._closure(path for run in kept for path in run.artifacts)
        candidates = {path for run in dropped for path in run.artifacts} - used
        doomed, left = self._old_enough(candidates)
        doomed |= self._shared_by(doomed)
        files = self._files(doomed, candidates)
        stay = {line.partition(":")[0] for line in left}
        return Cleaning(
            artifacts=tuple(sorted(doomed & self.manifests.keys())),
            files=files,
            num_bytes=sum(self.sizes[path] for path in files),
            runs=tuple(run for run in dropped if not run.artifacts & stay),
            kept=tuple(kept),
            left=tuple(left),
        )

    def _closure(self, noted: Iterable[str]) -> set[str]:
        """What kept runs noted, and what that was made from, by content."""
        made = {manifest.content_digest: path for path, manifest in self.manifests.items()}
        found, waiting = set[str](), list(noted)
        while waiting:
            path = waiting.pop()
            if path not in found:
                found.add(path)
                inputs = self.manifests[path].inputs.values() if path in self.manifests else ()
                waiting += [made[digest] for digest in inputs if digest in made]
        return found

    def _old_enough(self, candidates: set[str]) -> tuple[set[str], list[str]]:
        """Those that a running stage cannot be at work on, and of the others why they stay."""
        since = self._oldest_lease()
        doomed, left = set[str](), []
        for path in sorted(candidates):
            if path not in self.manifests:
                if since is None:
                    doomed.add(path)
            elif since is None or self._is_quiet(path, since):
                doomed.add(path)
            else:
                left.append(f"{path}: a run is going on, which may use it or files that it shares")
        return doomed, left

    def _is_quiet(self, path: str, since: float) -> bool:
        """Whether an artifact is older than every running lease, and shares no file with what a run may be making."""
        own = all(part.startswith(f"{path}/") for part in self.parts[path])
        return own and self.folder.modified(f"{path}/{NAME}") < since

    def _oldest_lease(self) -> float | None:
        """Since when a run or a fit holds a lease; None where none does."""
        fits = {path.split("/")[1] for path in self.sizes if path.startswith(f"{STATE}/")}
        held = [held_since(self.folder / STATE / key) for key in fits] + [run.active_since for run in self.known]
        return min((moment for moment in held if moment is not None), default=None)

    def _shared_by(self, doomed: set[str]) -> set[str]:
        """Artifacts that no run notes but whose parts only doomed ones list: those of single source files."""
        noted = {path for run in self.known for path in run.artifacts}
        listed = {path: {posixpath.dirname(part) for part in parts} for path, parts in self.parts.items()}
        wanted = {folder for path in doomed & listed.keys() for folder in listed[path]} & self.manifests.keys()
        needed = {folder for path in listed.keys() - doomed - wanted for folder in listed[path]}
        return wanted - noted - needed

    def _files(self, doomed: set[str], candidates: set[str]) -> tuple[str, ...]:
        """Every file that goes: manifests, then parts that no other manifest lists, then what lies beside them."""
        listed = {part for path in doomed & self.parts.keys() for part in self.parts[path]}
        shared = {posixpath.dirname(part) for part in listed} - self.manifests.keys()
        states = {f"{STATE}/{posixpath.basename(path)}" for path in doomed & candidates}
        staying = self.manifests.keys() - doomed
        needed = {part for path in staying for part in self.parts[path]}
        gone = [f"{path}/" for path in doomed | states] + [f"{path}/{RECEIPTS}/" for path in shared]
        found = {path for path in self.sizes if path in listed or path.startswith(tuple(gone))} - needed
        return tuple(sorted(found, key=lambda path: (posixpath.basename(path) != NAME, path)))


def _part_paths(folder: str, manifest: Manifest) -> set[str]:
    return {posixpath.normpath(posixpath.join(folder, part.path)) for part in manifest.parts}


def _remove(folder: Folder, names: tuple[str, ...]) -> None:
    """Delete files in order, the list of them first in the root, so that the rest goes if this is cut short."""
    if not names:
        return
    place = folder / CLEANING
    place.publish(JOURNAL, json.dumps(names).encode())
    for name in names:
        folder.remove(name)
    place.remove(JOURNAL)
    if folder.is_local:
        _remove_empty(folder, names)


def _finish_earlier(folder: Folder, say: Callable[[str], None]) -> None:
    """Delete what an interrupted `clean` left of its list, but for what was made again or is being made."""
    place = folder / CLEANING
    try:
        names: list[str] = json.loads(place.read(JOURNAL))
    except FileNotFoundError:
        return
    now = _Root(folder, records(folder))
    if any(run.active_since is not None for run in now.known):
        raise RootError(
            f"{folder.url}: an earlier clean was cut short, and a run is going on that may use what it left; clean "
            "again after that run"
        )
    # a manifest that stands is whole: it was not removed yet, when no part was either, or its stage was run again
    needed = {part for parts in now.parts.values() for part in parts}
    standing = tuple(f"{path}/" for path in now.manifests)
    rest = [name for name in names if name not in needed and not name.startswith(standing)]
    say(f"finishing an earlier clean: {len(rest)} files")
    for name in rest:
        folder.remove(name)
    place.remove(JOURNAL)


def _remove_empty(folder: Folder, names: Iterable[str]) -> None:
    """Folders on disk that hold nothing any more; a bucket has none."""
    above = {posixpath.dirname(name) for name in names}
    for path in sorted(above, key=len, reverse=True):
        full = folder / path
        if path and full.fs.isdir(full.path) and not full.fs.ls(full.path):
            full.fs.rmdir(full.path)
