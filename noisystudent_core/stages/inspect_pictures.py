"""Pictures of an inspection: some images of each class, and images that were taken for the same."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noisystudent_core.config.data import InspectConfig
from noisystudent_core.data.mixing import id_seeds
from noisystudent_core.data.parts import read_images
from noisystudent_core.evaluation.contact_sheet import Pair
from noisystudent_core.evaluation.figures import Group
from noisystudent_core.evaluation.galleries import Gallery, tiles
from noisystudent_core.evaluation.inspection import EVALUATION
from noisystudent_core.stages.inspect_repeats import Example, ImageSet, Place, Repeats
from noisystudent_core.stages.pairs import PAIRS, files_of, in_few_parts

MIXED_PARTS = 4  # of a set whose classes are not shown one by one
Stratum = int | None  # a class, or one of a set's runs of parts


class Strata:
    """Which part of a set has the most images of each class, or of each of its `MIXED_PARTS` runs of parts."""

    def __init__(self, num_parts: int, by_class: bool) -> None:
        self._num_parts, self._by_class = num_parts, by_class
        self.best: dict[int, tuple[int, int]] = {}  # number of images, part

    def add(self, part: int, table: pa.Table) -> None:
        """Take note of one part, rows of the `INSPECTIONS` schema."""
        good = table.filter(pc.field("reason").is_null())
        counts = Counter(good["label"].drop_null().to_pylist()) if self._by_class else Counter[int]()
        if not self._by_class and len(good):
            counts[part * MIXED_PARTS // self._num_parts] = len(good)
        for stratum, count in counts.items():
            if count > self.best.get(stratum, (0, 0))[0]:
                self.best[stratum] = count, part


def samples(
    config: InspectConfig,
    sets: Sequence[ImageSet],
    strata: Mapping[str, Strata],
    counts: Counter[int],
    names: Mapping[int, str],
) -> Gallery | None:
    """Images of each class of the set that has `counts`, and some of every other set; one part is read for a class."""
    groups: list[Group] = []
    for each in sets:
        best = strata[each.name].best
        if each is classes_of(sets):
            shown = _shown(config, counts)
            chosen = {
                number: _choose(config, each, best[number][1], number, config.pictures_per_class) for number in shown
            }
            groups += _class_groups(each, chosen, counts, names)
        else:
            many = -(-3 * config.pictures_per_class // max(len(best), 1))
            rows = [place for _, part in best.values() for place in _choose(config, each, part, None, many)]
            groups += _mixed_group(each, rows, names)
    if not groups:
        return None
    some = (
        f", the {config.classes_shown // 2} largest and smallest classes" if len(counts) > config.classes_shown else ""
    )
    caption = f"Drawn by chance, the same ones each time{some}."
    return Gallery(name="samples", title="Some of the images", subtitle=caption, caption=caption, groups=groups)


def classes_of(sets: Sequence[ImageSet]) -> ImageSet:
    """The set whose classes are shown one by one."""
    return next((each for each in sets if each.name not in (*EVALUATION, "unlabelled")), sets[0])


def pairs(
    found: Repeats, sets: Sequence[ImageSet], names: Mapping[int, str], inputs: Mapping[str, str]
) -> dict[str, list[Pair]]:
    """Pairs of images that were taken for the same, by what relates them; of sets the common ones first."""
    rows = [
        _pair(example, relation, sets)
        for relation, examples in sorted(
            found.examples.items(), key=lambda item: (item[0][0] == item[0][1], item[0][2])
        )
        for example in examples
    ]
    extra = [pa.field(name, pa.string()) for name in ("source", "other_source")]
    extra += [pa.field(name, pa.int32()) for name in ("label", "other_label")]
    table = pa.Table.from_pylist(rows, schema=pa.schema([*PAIRS, *extra]))
    chosen = list(in_few_parts(table))
    files = files_of(chosen, inputs)
    drawn: dict[str, list[Pair]] = {}
    for row in chosen:
        caption = f"{_said(row, '', names)} | {_said(row, 'other_', names)}"
        if row["distance"] is not None:
            caption += f" | {row['distance']} bits"
        pair = Pair(left=files[row["image_id"]], right=files[row["resembles"]], caption=caption)
        drawn.setdefault(row["reason"], []).append(pair)
    return drawn


def _pair(example: Example, relation: tuple[str, str, bool], sets: Sequence[ImageSet]) -> dict[str, Any]:
    one, other = (
        sets[place.set].table(place.part).slice(place.row, 1).to_pylist()[0]
        for place in (example.first, example.second)
    )
    first, second, by_hash = relation
    where = f"both in {first}" if first == second else f"in {first} and {second}"
    return {
        "reason": f"{'Much alike' if by_hash else 'Equal bytes'}, {where}",
        "distance": example.distance,
        "image_id": one["image_id"],
        "set": sets[example.first.set].name,
        "part": example.first.part,
        "source": one["source"],
        "label": one["label"],
        "resembles": other["image_id"],
        "resembles_set": sets[example.second.set].name,
        "resembles_part": example.second.part,
        "other_source": other["source"],
        "other_label": other["label"],
    }


def _said(row: Mapping[str, Any], prefix: str, names: Mapping[int, str]) -> str:
    """An image's name in its source, its class, and its set where the other is of another one."""
    label, where = row[f"{prefix}label"], row["resembles_set" if prefix else "set"]
    own = "" if row["set"] == row["resembles_set"] else f"{where}: "
    return f"{own}{row[f'{prefix}source']}" + ("" if label is None else f" ({names[label]})")


def _shown(config: InspectConfig, counts: Counter[int]) -> list[int]:
    """All classes in order, or the largest and the smallest ones."""
    if len(counts) <= config.classes_shown:
        return sorted(counts)
    ranked = sorted(counts, key=lambda number: (-counts[number], number))
    half = config.classes_shown // 2
    return [*ranked[: config.classes_shown - half], *ranked[len(ranked) - half :]]


def _choose(config: InspectConfig, each: ImageSet, part: int, label: int | None, many: int) -> list[Place]:
    """Rows of one part, of a class or of any, whose seeded ids are the smallest."""
    table = each.table(part, ["image_id", "label", "reason"])
    good = pc.field("reason").is_null() & (pc.scalar(True) if label is None else pc.field("label") == label)
    table = table.append_column("row", pa.array(np.arange(len(table)), pa.int64())).filter(good)
    order = np.argsort(id_seeds(config.seed, table["image_id"]).numpy(), kind="stable")[:many]
    return [Place(each.number, part, row) for row in table["row"].take(order).to_pylist()]


def _class_groups(
    each: ImageSet, chosen: Mapping[int, Sequence[Place]], counts: Counter[int], names: Mapping[int, str]
) -> Iterator[Group]:
    read = _read(each, [place for places in chosen.values() for place in places])
    for number, places in chosen.items():
        table = pa.concat_tables([read[place] for place in places])
        yield _group(f"{each.name}, {names[number]}: {counts[number]:,} images", table, None)


def _mixed_group(each: ImageSet, places: Sequence[Place], names: Mapping[int, str]) -> Iterator[Group]:
    read = _read(each, places)
    if read:
        yield _group(
            f"{each.name}: {each.images.manifest.num_rows:,} images", pa.concat_tables([*read.values()]), names
        )


def _read(each: ImageSet, places: Sequence[Place]) -> dict[Place, pa.Table]:
    """A row of the images for each place; parts are read one after another."""
    found: dict[Place, pa.Table] = {}
    columns = ["image", "label", "source", "height", "width", "reason"]
    for part in sorted({place.part for place in places}):
        here = [place for place in places if place.part == part]
        table = read_images(each.images, each.images.manifest.parts[part], columns)
        rows = table.take([place.row for place in here])
        found |= {place: rows.slice(number, 1) for number, place in enumerate(here)}
    return found


def _group(heading: str, table: pa.Table, names: Mapping[int, str] | None) -> Group:
    """Small pictures: with their class where that is not the group's own, else with their size."""
    images, there = tiles(table.select(["image", "height", "width", "reason"]))
    rows = [row for row, ok in zip(table.select(["label", "height", "width"]).to_pylist(), there, strict=True) if ok]
    sizes = [f"{row['height']} × {row['width']}" for row in rows]
    labels = ["" if row["label"] is None or names is None else names[row["label"]] for row in rows]
    labelled = any(labels)
    return Group(
        heading=heading, images=images[there], captions=labels if labelled else sizes, notes=sizes if labelled else ()
    )
