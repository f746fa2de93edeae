"""Images that sets of images have twice, or have in common: by equal bytes, and by hashes that are near."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from noisystudent_core.config.data import InspectConfig
from noisystudent_core.config.run import SPLITS
from noisystudent_core.data.labels import check_same_names
from noisystudent_core.data.near import NearIndex, nearest_before
from noisystudent_core.data.schemas import INSPECTIONS, from_bytes
from noisystudent_core.errors import DataError
from noisystudent_core.evaluation.inspection import EVALUATION, Near, Shared
from noisystudent_core.stages.rearranging import HASH, dealt_out
from noisystudent_core.stages.selected import spaced
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import Artifact, Inputs
from noisystudent_core.storage.prepared import IMAGES, INSPECTION

ORDER = (IMAGES, *SPLITS)
ROWS_AT_ONCE = 10_000_000  # whose ids are compared in memory, some 150 bytes each
NUM_EXAMPLES = 6  # of images in one set twice, or in two sets
MOST_HITS = 10_000  # near images among which examples are chosen
_SET, _PART = 56, 32  # bits of a place above which its set's number and its part's stand; below is the row

Places = NDArray[np.int64]
Hashes = NDArray[np.uint64]
IDS = pa.schema({HASH: INSPECTIONS.field("image_id").type, "set": pa.int8(), "place": pa.int64(), "label": pa.int32()})


class ImageSet(NamedTuple):
    """A set of images, and what an inspection kept of each of them."""

    name: str
    number: int
    images: Artifact
    rows: Artifact

    def table(self, part: int, columns: Sequence[str] = INSPECTIONS.names) -> pa.Table:
        """What was kept of one part's images."""
        found = self.rows.manifest.parts[part]
        return from_bytes(self.rows.read(found), INSPECTIONS, f"{self.rows.url}/{found.path}", list(columns))

    def usable(self, part: int, columns: Sequence[str]) -> tuple[pa.Table, Places]:
        """The decodable images of a part, and where they stand."""
        table = self.table(part, [*columns, "reason"])
        rows = np.flatnonzero(table["reason"].is_null().to_numpy())
        return table.take(rows), rows | (part << _PART) | (self.number << _SET)


class Place(NamedTuple):
    """An image's set, by number, its part and its row in it."""

    set: int
    part: int
    row: int

    @classmethod
    def of(cls, code: int) -> "Place":
        """The place that a number of 64 bits stands for."""
        return cls(code >> _SET, code >> _PART & 0xFFFFFF, code & 0xFFFFFFFF)


@dataclass(frozen=True)
class Example:
    """Two images that were taken for the same; `distance` in bits, None for equal bytes."""

    first: Place
    second: Place
    distance: int | None = None


@dataclass
class Repeats:
    """What sets have twice, and what they have in common."""

    repeated: Counter[str] = field(default_factory=Counter)
    shared: dict[tuple[str, str], Shared] = field(default_factory=dict)
    look_alikes: dict[str, int | None] = field(default_factory=dict)
    near: list[Near] = field(default_factory=list)
    examples: dict[tuple[str, str, bool], list[Example]] = field(default_factory=dict)  # sets, and whether by hash


def image_sets(inputs: Inputs) -> list[ImageSet]:
    """The sets among a stage's inputs, each beside its "inspection NAME".

    Raises `DataError` for inspections of other images, `LabelError` for sets whose classes differ.
    """
    found = []
    names = sorted((name for name in inputs if not name.startswith(f"{INSPECTION} ")), key=ORDER.index)
    for number, name in enumerate(names):
        images, rows = Artifact.open(inputs[name]), Artifact.open(inputs[f"{INSPECTION} {name}"])
        if rows.manifest.inputs["images"] != images.manifest.content_digest:
            raise DataError(f"{rows.url}: an inspection of other images than {images.url}; inspect these")
        found.append(ImageSet(name, number, images, rows))
    named = [(each.name, names) for each in found if (names := each.images.manifest.facts.get("class_names"))]
    for name, names in named[1:]:
        check_same_names(name, names, *named[0])
    return found


def find_repeats(config: InspectConfig, sets: Sequence[ImageSet], scratch: Folder) -> Repeats:
    """Compare all images of all sets; buckets of ids that do not fit into memory lie in `scratch` meanwhile."""
    found = Repeats(look_alikes=dict.fromkeys(each.name for each in sets))
    total = sum(each.images.manifest.num_rows for each in sets)
    for tables in dealt_out(_ids(sets), max(1, -(-total // ROWS_AT_ONCE)), scratch):
        _compare_ids(pa.concat_tables([IDS.empty_table(), *tables]), sets, found)
    if config.near_radius is not None:
        _compare_looks(config.near_radius, config, sets, found)
    return found


def _ids(sets: Sequence[ImageSet]) -> Iterator[pa.Table]:
    for each in sets:
        for part in range(len(each.rows.manifest.parts)):
            table, places = each.usable(part, ["image_id", "label"])
            own = pa.repeat(pa.scalar(each.number, pa.int8()), len(table))
            yield pa.table({HASH: table["image_id"], "set": own, "place": places, "label": table["label"]}, schema=IDS)


def _compare_ids(table: pa.Table, sets: Sequence[ImageSet], found: Repeats) -> None:
    """Equal ids of one bucket, which has all rows of an id."""
    wanted = [("place", "min"), ("place", "max"), ("place", "count"), ("label", "min")]
    once = table.group_by([HASH, "set"]).aggregate(wanted).sort_by(HASH)
    for each in sets:
        twice = once.filter((pc.field("set") == each.number) & (pc.field("place_count") > 1))
        found.repeated[each.name] += (pc.call_function("sum", [twice["place_count"]]).as_py() or 0) - len(twice)
        _keep_examples(found, (each.name, each.name, False), twice["place_min"], twice["place_max"])
    for one, other in combinations(sets, 2):
        first, second = (once.filter(pc.field("set") == each.number) for each in (one, other))
        first, second = _common(first, second), _common(second, first)
        differ = pc.call_function("not_equal", [first["label_min"], second["label_min"]])
        known = found.shared.get((one.name, other.name), Shared(first=one.name, second=other.name, num_images=0))
        found.shared[one.name, other.name] = Shared(
            first=one.name,
            second=other.name,
            num_images=known.num_images + len(first),
            num_other_label=known.num_other_label + (pc.call_function("sum", [differ]).as_py() or 0),
        )
        _keep_examples(found, (one.name, other.name, False), first["place_min"], second["place_min"])


def _common(table: pa.Table, other: pa.Table) -> pa.Table:
    known = pc.SetLookupOptions(other[HASH].combine_chunks())
    return table.filter(pc.call_function("is_in", [table[HASH]], known))


def _keep_examples(found: Repeats, key: tuple[str, str, bool], first: pa.ChunkedArray, second: pa.ChunkedArray) -> None:
    kept = found.examples.setdefault(key, [])
    codes = zip(first.to_pylist()[: NUM_EXAMPLES - len(kept)], second.to_pylist(), strict=False)
    kept += [Example(Place.of(one), Place.of(other)) for one, other in codes]


@dataclass
class _Looks:
    """The hashes of a set's different images: id (its first 8 bytes, enough to tell millions apart), hash and place."""

    ids: NDArray[np.uint64]
    hashes: Hashes
    places: Places

    @classmethod
    def of(cls, each: ImageSet) -> "_Looks":
        parts = [_looks(each, part) for part in range(len(each.rows.manifest.parts))]
        ids, hashes, places = (np.concatenate(some) for some in zip(*parts, strict=True))
        _, first = np.unique(ids, return_index=True)
        first.sort()
        return cls(ids[first], hashes[first], places[first])


def _looks(each: ImageSet, part: int) -> tuple[NDArray[np.uint64], Hashes, Places]:
    table, places = each.usable(part, ["image_id", "hash"])
    there = table["hash"].is_valid().to_numpy()
    ids = np.frombuffer(b"".join(table["image_id"].to_pylist()), ">u8")[::2].astype(np.uint64)
    return ids[there], table["hash"].drop_null().to_numpy(), places[there]


def _compare_looks(radius: int, config: InspectConfig, sets: Sequence[ImageSet], found: Repeats) -> None:
    evaluation: dict[str, tuple[_Looks, bool]] = {}  # and whether its hashes can tell copies
    for each in sets:
        if each.images.manifest.num_rows > config.max_near_images:
            continue
        looks = _Looks.of(each)
        row, distance = nearest_before(looks.hashes, radius)
        alike = np.flatnonzero(row >= 0)
        found.look_alikes[each.name] = len(alike)
        key = (each.name, each.name, True)
        found.examples[key] = _spaced(looks.places[row[alike]], looks.places[alike], distance[alike])
        if each.name in EVALUATION:
            evaluation[each.name] = looks, len(alike) <= config.max_look_alikes * len(row)
    for name, (looks, trusted) in evaluation.items():
        for each in sets:
            if each.name not in EVALUATION:
                count = _near(radius, looks, name, each, found) if trusted else None
                found.near.append(Near(evaluation=name, training=each.name, num_images=count))


def _near(radius: int, looks: _Looks, name: str, each: ImageSet, found: Repeats) -> int:
    """How many images of a set, which is read part by part, look like one of an evaluation set without being one."""
    index, count, hits = NearIndex(looks.hashes, radius), 0, list[NDArray[np.int64]]()
    for part in range(len(each.rows.manifest.parts)):
        ids, hashes, places = _looks(each, part)
        other = ~np.isin(ids, looks.ids)
        row, distance = index.nearest(hashes[other])
        near = np.flatnonzero(row >= 0)
        if count < MOST_HITS and len(near):
            hits.append(np.stack([looks.places[row[near]], places[other][near], distance[near]]))
        count += len(near)
    if hits:
        found.examples[name, each.name, True] = _spaced(*np.concatenate(hits, axis=1))
    return count


def _spaced(first: Places, second: Places, distance: NDArray[np.int64]) -> list[Example]:
    """Some pairs, from the nearest to the farthest apart."""
    order = np.lexsort([second, distance])
    chosen = order[spaced(len(order), NUM_EXAMPLES)]
    return [Example(Place.of(int(first[pair])), Place.of(int(second[pair])), int(distance[pair])) for pair in chosen]


def class_names(sets: Sequence[ImageSet], numbers: Mapping[int, int]) -> dict[int, str]:
    """What classes are called: as the first set that has names says, else by their numbers."""
    known = next((names for each in sets if (names := each.images.manifest.facts.get("class_names"))), [])
    return {number: known[number] if number < len(known) else str(number) for number in sorted(numbers)}
