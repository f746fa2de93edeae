"""Which artifacts a run refers to: small notes under ROOT/runs/<digest>, published whole, never changed.

`begun.<ms>.json` says what the run is called and which artifacts it was given, `uses.<kind>.<key>` that it reads or
makes an artifact. While it lasts, a run holds a lease there; while `cleaning` removes artifacts, it holds one too.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.lease import held_since, leased

RUNS = "runs"
ACTIVE = "active"  # RUNS/<digest>/ACTIVE/<id>: the lease of one that lasts
CLEANING = f"{RUNS}/cleaning"
BEGUN, USES = "begun.", "uses."
POLL_S = 1.0


@dataclass(frozen=True)
class RunRecord:
    """What the notes say of a run; artifacts are paths below the root, "kind/key"."""

    digest: str
    name: str
    begun_ms: int  # since 1970, the last time that it began
    artifacts: frozenset[str]
    active_since: float | None = field(default=None)  # seconds since 1970; None: it does not last


class RunNotes:
    """A run of `digest` that lasts; the same digest begins again where it is repeated."""

    def __init__(self, root: str, digest: str) -> None:
        self._root = Folder.at(root)
        self._folder = self._root / RUNS / digest

    @contextmanager
    def lasting(self, run_id: str, name: str, given: Sequence[str]) -> Iterator[None]:
        """Say that the run begins, with the artifacts it was given, and hold its lease while the block lasts."""
        inside = [path for url in given if (path := _below(self._root, url)) is not None]
        about = {"name": name, "given": inside}
        active = self._folder / ACTIVE / run_id
        try:
            with leased(active):
                self._folder.publish(f"{BEGUN}{int(time.time() * 1000)}.json", json.dumps(about).encode())
                yield
        finally:
            active.remove_all()

    def use(self, url: str, say: Callable[[str], None] = lambda text: None) -> None:
        """Note that the run uses the artifact at `url`, before it looks for it; wait while artifacts are removed."""
        path = _below(self._root, url)
        if path is not None:
            self._folder.publish(f"{USES}{path.replace('/', '.')}", path.encode())
        said = False
        while held_since(self._root / CLEANING) is not None:
            if not said:
                say("waiting for `noisy-student clean`, which removes artifacts of this root")
            said = True
            time.sleep(POLL_S)


def records(root: Folder) -> list[RunRecord]:
    """Every run that left notes, the one that began last first."""
    notes: dict[str, list[str]] = {}
    base = f"{(root / RUNS).path}/"
    for path in root.fs.find(base.rstrip("/")):
        digest, _, name = str(path).removeprefix(base).partition("/")
        notes.setdefault(digest, []).append(name)
    found = [_record(root / RUNS / digest, digest, names) for digest, names in notes.items()]
    return sorted((one for one in found if one is not None), key=lambda one: (-one.begun_ms, one.digest))


def _record(folder: Folder, digest: str, names: list[str]) -> RunRecord | None:
    begun = sorted(int(name.split(".")[1]) for name in names if name.startswith(BEGUN))
    if not begun:
        return None
    artifacts = {name.removeprefix(USES).replace(".", "/") for name in names if name.startswith(USES)}
    for each in begun:
        artifacts.update(json.loads(folder.read(f"{BEGUN}{each}.json"))["given"])
    about = json.loads(folder.read(f"{BEGUN}{begun[-1]}.json"))
    active = {name.split("/")[1] for name in names if name.startswith(f"{ACTIVE}/")}
    since = [found for one in active if (found := held_since(folder / ACTIVE / one)) is not None]
    return RunRecord(digest, about["name"], begun[-1], frozenset(artifacts), min(since, default=None))


def _below(root: Folder, url: str) -> str | None:
    """The path of "kind/key" below the root; None for what lies elsewhere."""
    if not url.startswith(f"{root.url}/"):
        return None
    steps = url.removeprefix(f"{root.url}/").split("/")
    return "/".join(steps[:2]) if len(steps) >= 2 else None
