"""A stage that does the same work on every image part, each by itself: planned, shared out in groups, and gathered.

A part's result has a name of its own, made of what the work is and of what it is done on. Whoever does it first, in
whatever run, does it for all: next week's images cost next week's images. A part that fails `failures.LIMIT` times is
set aside with the reason; its rows say so in the gathered artifact, and only more than `max_missing` of them is an
error.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pyarrow as pa

from noisystudent_core.config.settings import PartSettings
from noisystudent_core.data.schemas import read_column, to_bytes
from noisystudent_core.errors import BadImagesError, PartsFailedError, RootError
from noisystudent_core.events import Events, silent
from noisystudent_core.stages.units import Results, Unit, opened, units_of
from noisystudent_core.storage.digests import digest
from noisystudent_core.storage.failures import LIMIT, Failures
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import Inputs, Part, publish_part, stage_key
from noisystudent_core.storage.stage import Place, Written

SHOWN = 100  # parts set aside that a manifest lists by name
WRITES_AHEAD = 2  # results that wait for the store while the next ones are made

Config = TypeVar("Config", bound=PartSettings)


@dataclass(frozen=True)
class ByPart(Generic[Config]):
    """The work: `compute` yields a table, or what went wrong, for each unit in order; `instead` stands in for a unit.

    `source` is the input whose parts these are; `reads` are the inputs that, with the settings, decide what a part's
    result is; `facts` are the finished manifest's own.
    """

    source: str
    reads: tuple[str, ...]
    compute: Callable[[Config, Inputs, Sequence[Unit], Events], Results]
    instead: Callable[[Config, Inputs, Unit, str], pa.Table]
    facts: Callable[[Inputs, Sequence[Unit]], dict[str, Any]]

    def plan(
        self, config: Config, inputs: Inputs, root: str, events: Events = silent, *, num_groups: int
    ) -> list[dict[str, Any]]:
        """Share the parts that are not done yet into at most `num_groups` groups: {"parts": indices, "num_images"}."""
        units = list(_missing(self._shared(config, inputs, root), self._units(inputs)))
        groups = [units[start::num_groups] for start in range(min(num_groups, len(units)))]
        return [{"parts": [u.index for u in group], "num_images": sum(u.num_rows for u in group)} for group in groups]

    def group(self, config: Config, inputs: Inputs, root: str, events: Events = silent, *, parts: list[int]) -> int:
        """Do what is missing of the parts of these indices, and return of how many images.

        Raises `PartsFailedError` where parts failed that are worth another try.
        """
        wanted = set(parts)
        units = [unit for unit in self._units(inputs) if unit.index in wanted]
        shared = self._shared(config, inputs, root)
        done, failed = self._attempt(config, inputs, shared, _not_there(shared, units), events)
        if failed:
            raise PartsFailedError(f"{len(failed)} of {len(parts)} parts failed, the first with: {failed[0]}")
        return done

    def gather(self, config: Config, inputs: Inputs, place: Place, events: Events) -> Written:
        """The stage's own work: do what no group has done, and list every part.

        Raises `BadImagesError` where more than `config.max_missing` of the images are missing.
        """
        units, key = self._units(inputs), self._key(config, inputs)
        shared = place.folder / place.beside(key)
        failed = [""]
        while failed:
            _, failed = self._attempt(config, inputs, shared, list(_missing(shared, units)), events)
        aside = self._set_aside(shared, units)
        parts, drops = _described(shared, [unit for unit in units if unit.index not in aside])
        self._check(config, inputs, units, drops, aside)
        for unit in units:
            if unit.index in aside:
                table = self.instead(config, inputs, unit, aside[unit.index])
                path = f"set-aside-{unit.index:05d}.parquet"
                parts[unit.file] = publish_part(place.folder, path, to_bytes(table, table.schema), unit.num_rows)
                drops["set_aside"] += unit.num_rows
        return Written(
            tuple(_placed(parts[unit.file], unit, place, key) for unit in units),
            {reason: count for reason, count in drops.items() if count},
            self.facts(inputs, units) | {"set_aside": self._listed(inputs, aside)},
        )

    def _key(self, config: Config, inputs: Inputs) -> str:
        return stage_key(config, {name: opened(inputs[name]).manifest.content_digest for name in self.reads})

    def _shared(self, config: Config, inputs: Inputs, root: str) -> Folder:
        return Folder.at(root) / config.kind / self._key(config, inputs)

    def _units(self, inputs: Inputs) -> tuple[Unit, ...]:
        return units_of(inputs[self.source], inputs.get("selection"))

    def _attempt(
        self, config: Config, inputs: Inputs, shared: Folder, units: Sequence[Unit], events: Events
    ) -> tuple[int, list[str]]:
        """Do units that are missing; how many images were done, and why units failed that are worth another try."""
        failures = Failures(shared / "failures")
        known = failures.reasons()
        fresh = [unit for unit in units if unit.name not in known]
        suspects = [unit for unit in units if 0 < len(known.get(unit.name, ())) < LIMIT]
        failed: list[str] = []
        with _Writer(shared, sum(unit.num_rows for unit in [*fresh, *suspects]), events) as writer:
            for some in (fresh, *([unit] for unit in suspects)):  # a suspect alone: nothing else dies with it
                results = self.compute(config, inputs, some, events) if some else iter(())
                for unit in some:
                    events("part", name=unit.name, failures=failures.folder.url)  # for whoever finds us dead
                    found, result = next(results)
                    assert found is unit
                    if isinstance(result, RootError):
                        raise result  # no part's fault
                    if not isinstance(result, Exception):
                        writer.write(unit, result)
                    elif failures.add(unit.name, _reason(result)) < LIMIT:
                        failed.append(_reason(result))
        return writer.num_images, failed

    def _set_aside(self, shared: Folder, units: Sequence[Unit]) -> dict[int, str]:
        """Why the last try of each missing unit failed; another set, or another day, tries them again."""
        failures = Failures(shared / "failures")
        known = failures.reasons()
        aside = {unit.index: known.get(unit.name, ["failed in another run"])[-1] for unit in _missing(shared, units)}
        failures.clear()
        return aside

    def _check(
        self, config: Config, inputs: Inputs, units: Sequence[Unit], drops: Counter[str], aside: dict[int, str]
    ) -> None:
        """Raise BadImagesError where too many images have no result that had been decodable when they were taken in."""
        reasons = Counter(drops)
        if "selection" not in inputs:
            reasons.subtract(opened(inputs[self.source]).manifest.drops)
        for unit in units:
            if unit.index in aside:
                reasons[aside[unit.index]] += unit.num_rows
        reasons = +reasons
        missing, total = reasons.total(), sum(unit.num_rows for unit in units)
        if missing > config.max_missing * total:
            worst = "; ".join(f"{count}: {reason}" for reason, count in reasons.most_common(3))
            raise BadImagesError(
                f"{missing} of {total} images have no result, more than max_missing={config.max_missing} of them "
                f"({worst}); repair what is named and run again, or raise data.max_missing"
            )

    def _listed(self, inputs: Inputs, aside: dict[int, str]) -> list[dict[str, Any]]:
        images = opened(inputs[self.source]).manifest.parts
        return [
            {"part": images[index].path, "num_images": images[index].num_rows, "reason": reason}
            for index, reason in list(aside.items())[:SHOWN]
        ]


class _Writer:
    """Stores results while the next ones are made, and leaves a receipt of them, so that nobody reads them again."""

    def __init__(self, shared: Folder, total: int, events: Events) -> None:
        self.num_images = 0
        self._shared, self._total, self._events = shared, total, events
        self._pool = ThreadPoolExecutor(1, "results")
        self._waiting: list[Future[dict[str, Any]]] = []
        self._receipt: list[dict[str, Any]] = []

    def write(self, unit: Unit, table: pa.Table) -> None:
        """Store a unit's result; raises what went wrong with an earlier one."""
        self._waiting.append(self._pool.submit(_store, self._shared, unit, table))
        self._settle(WRITES_AHEAD)

    def _settle(self, left: int) -> None:
        while len(self._waiting) > left:
            stored = self._waiting.pop(0).result()
            self._receipt.append(stored)
            self.num_images += stored["num_rows"]
            self._events("progress", done=self.num_images, total=self._total, unit="images", parts=len(self._receipt))

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._settle(0)
        finally:
            self._pool.shutdown(cancel_futures=True)
            if self._receipt:
                data = json.dumps(self._receipt).encode()
                (self._shared / "receipts").publish(f"{digest(data)}.json", data)


def _missing(shared: Folder, units: Iterable[Unit]) -> Iterator[Unit]:
    """The units not stored yet, found by listing their folder once."""
    there = shared.sizes()
    return (unit for unit in units if unit.file not in there)


def _not_there(shared: Folder, units: Sequence[Unit]) -> list[Unit]:
    """The same of a few units, each asked for: many groups would list a long folder as many times."""
    with ThreadPoolExecutor(8) as pool:
        there = pool.map(lambda unit: shared.exists(unit.file), units)
        return [unit for unit, found in zip(units, there, strict=True) if not found]


def _store(shared: Folder, unit: Unit, table: pa.Table) -> dict[str, Any]:
    """Write a result, and describe it as it stands there."""
    part = publish_part(shared, unit.file, to_bytes(table, table.schema), table.num_rows)
    return {**part.model_dump(), "drops": _counted(table["reason"])}


def _described(shared: Folder, units: Sequence[Unit]) -> tuple[dict[str, Part], Counter[str]]:
    """Each unit's stored part by its file, and its rows without a result by reason: from receipts, else read."""
    known = {stored["path"]: stored for stored in _receipts(shared / "receipts")}
    sizes = shared.sizes()
    unknown = [unit for unit in units if known.get(unit.file, {}).get("num_bytes") != sizes[unit.file]]
    for unit, data in zip(unknown, shared.read_many([unit.file for unit in unknown]), strict=True):
        reasons = read_column(data, "reason", f"{shared.url}/{unit.file}")
        part = Part(path=unit.file, num_rows=unit.num_rows, num_bytes=len(data), digest=digest(data))
        known[unit.file] = {**part.model_dump(), "drops": _counted(reasons)}
    drops: Counter[str] = Counter()
    parts = {}
    for unit in units:
        stored = dict(known[unit.file])
        drops.update(stored.pop("drops"))
        parts[unit.file] = Part.model_validate(stored)
    return parts, drops


def _receipts(folder: Folder) -> Iterator[dict[str, Any]]:
    names = [name for name in folder.sizes() if name.endswith(".json") and not name.startswith(".")]
    for data in folder.read_many(names):
        yield from json.loads(data)


def _counted(reasons: pa.ChunkedArray) -> dict[str, int]:
    return dict(Counter(reasons.drop_null().to_pylist()))


def _placed(part: Part, unit: Unit, place: Place, key: str) -> Part:
    """A part of the shared folder as the artifact's manifest refers to it."""
    return part.model_copy(update={"path": place.beside(key, part.path)}) if part.path == unit.file else part


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
