"""What every stage does around its own work: find the finished artifact, else make it and publish its manifest last."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Protocol, TypeVar

from noisystudent_core.config.settings import StageSettings
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.events import Events, silent
from noisystudent_core.storage.filesystem import Folder
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

Config = TypeVar("Config", bound=StageSettings, contravariant=True)


@dataclass(frozen=True)
class Place:
    """Where a stage writes: its artifact's folder, and the folders beside it that it shares with other runs."""

    folder: Folder
    shared: str = "../"  # path from the artifact's folder to where shared folders lie

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
        manifest = finished(url)
        if manifest is None:
            if out:
                _check_key(_claim(Folder.at(url), key), key, url)
            place = Place(Folder.at(url), "" if out else "../")
            written = work(config, inputs, place, events)
            manifest = publish_manifest(url, config, digests, written.parts, drops=written.drops, facts=written.facts)
        _check_key(manifest.key, key, url)
        return manifest

    return run  # type: ignore[return-value]


def _claim(folder: Folder, key: str) -> str:
    """The key of whoever began to fill this folder: parts that a killed stage left are no other stage's."""
    return key if folder.publish(CLAIM, key.encode()) else folder.read(CLAIM).decode()


def _check_key(found: str, key: str, url: str) -> None:
    if found != key:
        raise ConfigurationError(
            f"{url}: holds an artifact of other settings or inputs (key {found}, not {key}); "
            "choose another folder, or delete this one"
        )
