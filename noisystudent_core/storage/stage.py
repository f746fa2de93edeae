"""What every stage does around its own work: find the finished artifact, else make it and publish its manifest last."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Protocol, TypeVar

from noisystudent_core.config.settings import StageSettings
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.events import Events, silent
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.lease import leased
from noisystudent_core.storage.manifest import (
    Inputs,
    Manifest,
    Part,
    artifact_url,
    finished,
    input_digests,
    publish_manifest,
    stage_key,
)

CLAIM = ".key"  # in a folder that is not named by its key
SCRATCH = ".state"  # likewise; under a root it is ROOT/state/<key>

Config = TypeVar("Config", bound=StageSettings, contravariant=True)


@dataclass(frozen=True)
class Place:
    """Where a stage writes: its artifact's folder, and the folders beside it that it shares with other runs."""

    folder: Folder
    scratch: Folder  # what an interrupted stage goes on from; gone once it is finished
    shared: str = "../"  # path from the artifact's folder to where shared folders lie

    @classmethod
    def under(cls, root: str, kind: str, key: str) -> "Place":
        """The place of the artifact `key` under a root."""
        return cls(Folder.at(root) / kind / key, Folder.at(root) / "state" / key)

    def beside(self, key: str, name: str = "") -> str:
        """Path, relative to the artifact's folder, of a file in the shared folder `key`."""
        return f"{self.shared}{key}/{name}".rstrip("/")


@dataclass(frozen=True)
class Written:
    """What a stage's own work leaves for the manifest."""

    parts: tuple[Part, ...]
    drops: dict[str, int] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


class Stage(Protocol[Config]):
    """A stage, ready to be called."""

    def __call__(
        self, config: Config, inputs: Inputs, root: str, events: Events = silent, *, out: str | None = None
    ) -> Manifest: ...


def stage(work: Callable[[Config, Inputs, Place, Events], Written]) -> Stage[Config]:
    """Make a stage of its own work: a finished one is returned as it stands, else the work is done and published."""

    @wraps(work)
    def run(config: Config, inputs: Inputs, root: str, events: Events = silent, *, out: str | None = None) -> Manifest:
        digests = input_digests(inputs)
        key, url = stage_key(config, digests), out or artifact_url(config, digests, root)

        def finish(place: Place) -> Manifest:
            written = work(config, inputs, place, events)
            return publish_manifest(url, config, digests, written.parts, drops=written.drops, facts=written.facts)

        manifest = finished(url)
        if manifest is None:
            with _claimed(Folder.at(out), key) if out else nullcontext(Place.under(root, config.kind, key)) as place:
                manifest = _finish_alone(finish, place, events) if config.resumes else finish(place)
        _check_key(manifest.key, key, url)
        return manifest

    return run  # type: ignore[return-value]


def _finish_alone(finish: Callable[[Place], Manifest], place: Place, events: Events) -> Manifest:
    """Finish a long stage unless another run does meanwhile; its saved states go when its manifest stands."""
    with leased(place.scratch, lambda text: events("waiting", text=text)):
        manifest = finished(place.folder.url) or finish(place)
        place.scratch.remove_all()
        return manifest


@contextmanager
def _claimed(folder: Folder, key: str) -> Iterator[Place]:
    """A folder for this key alone: parts that a killed stage left are no other stage's.

    What fails before it has written anything leaves the folder free, for corrected settings.
    """
    is_new = folder.publish(CLAIM, key.encode())
    if not is_new:
        _check_key(folder.read(CLAIM).decode(), key, folder.url)
    try:
        yield Place(folder, folder / SCRATCH, shared="")
    except Exception:
        if is_new and len(folder.fs.find(folder.path)) == 1:
            folder.remove(CLAIM)
        raise


def _check_key(found: str, key: str, url: str) -> None:
    if found != key:
        raise ConfigurationError(
            f"{url}: holds an artifact of other settings or inputs (key {found}, not {key}); "
            "choose another folder, or delete this one"
        )
