"""Images to leave out of the unlabelled set: evaluation images, exact and near copies of them, and near repeats."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noisystudent_core.config.data import ExclusionsConfig
from noisystudent_core.data.duplicates import fingerprint
from noisystudent_core.data.near import NearIndex, Rows, nearest_before
from noisystudent_core.data.parts import read_images
from noisystudent_core.data.schemas import EXCLUSIONS, FINGERPRINTS, IMAGE_ID, NEAR_EXCLUSIONS, from_bytes, to_bytes
from noisystudent_core.errors import DataError
from noisystudent_core.events import Events
from noisystudent_core.stages.pairs import PAIRS, show_pairs
from noisystudent_core.storage.manifest import Artifact, Inputs, publish_part
from noisystudent_core.storage.stage import Place, Written, stage

# an image, and where it stands: the input's name, and which of its parts
SEEN = pa.schema({"image_id": IMAGE_ID, "hash": pa.uint64(), "set": pa.string(), "part": pa.int32()})


@stage
def exclusions(config: ExclusionsConfig, inputs: Inputs, place: Place, events: Events) -> Written:
    """List the unlabelled images to leave out: inputs {"unlabelled"} and any evaluation sets under their names.

    The input "fingerprints", those of the unlabelled images, spares reading the images; without it, they are hashed
    here. An image has one reason: "evaluation_image" (equal bytes), "near_evaluation_image" (a hash within
    `near_radius` bits), "near_repeated" (within `repeat_radius` bits of an unlabelled image of smaller id that no other
    reason excludes). Where hashes cannot tell the evaluation images apart, equal bytes alone count, and the figure
    shows why. Source: section 3.1.
    """
    evaluation = _once(pa.concat_tables([SEEN.empty_table(), *_evaluation(config, inputs)]))
    alike = _look_alikes(config, evaluation)
    share = alike.num_rows / max(len(evaluation), 1)
    trusted = _compares(config) and share <= config.max_look_alikes
    if _compares(config) and not trusted:
        events("message", text=_mistrust(config, share, len(evaluation)))
    search = _Search(config, evaluation, trusted)
    done, total = 0, Artifact.open(inputs["unlabelled"]).manifest.num_rows
    for table in _seen(config, inputs, "unlabelled"):
        search.add(table)
        done += len(table)
        events("progress", done=done, total=total, unit="images")
    rows = search.result()
    show_pairs(alike if _compares(config) and not trusted else rows, inputs, events)
    schema = NEAR_EXCLUSIONS if _compares(config) else EXCLUSIONS
    part = publish_part(place.folder, "part-00000.parquet", to_bytes(rows.select(schema.names), schema), len(rows))
    facts = {reason: len(rows.filter(pc.field("reason") == reason)) for reason in search.reasons}
    return Written((part,), facts=facts | ({"look_alikes": share} if _compares(config) else {}))


class _Search:
    """Evaluation images, and what resembles them or one another among unlabelled images that are added part by part."""

    def __init__(self, config: ExclusionsConfig, evaluation: pa.Table, trusted: bool) -> None:
        self._evaluation, self._rows = evaluation, _hashed_rows(evaluation)
        self._known = pc.SetLookupOptions(evaluation["image_id"].combine_chunks())
        near_radius = config.near_radius if trusted else None
        self._repeat_radius = config.repeat_radius if trusted else None
        self._index = None if near_radius is None else NearIndex(_hashes(evaluation), near_radius)
        self._found, self._others = [PAIRS.empty_table()], [SEEN.empty_table()]
        asked = {"near_evaluation_image": config.near_radius, "near_repeated": config.repeat_radius}
        self.reasons = ["evaluation_image", *(reason for reason, radius in asked.items() if radius is not None)]

    def add(self, table: pa.Table) -> None:
        """Look through the images of one part, a table of SEEN."""
        exact = pc.call_function("is_in", [table["image_id"]], self._known).to_numpy()
        self._found.append(_pairs("evaluation_image", table.filter(exact)))
        table = table.filter(~exact & table["hash"].is_valid().to_numpy())
        if self._index is not None:
            row, distance = self._index.nearest(_hashes(table))
            near = row >= 0
            others = self._evaluation.take(self._rows[row[near]])
            self._found.append(_pairs("near_evaluation_image", table.filter(near), others, distance[near]))
            table = table.filter(~near)
        if self._repeat_radius is not None:
            self._others.append(table)

    def result(self) -> pa.Table:
        """Every image to leave out, once, in order of id: a table of PAIRS."""
        if self._repeat_radius is not None:
            images = _once(pa.concat_tables(self._others))
            row, distance = nearest_before(_hashes(images), self._repeat_radius)
            repeats = np.flatnonzero(row >= 0)
            others = images.take(row[repeats])
            self._found.append(_pairs("near_repeated", images.take(repeats), others, distance[repeats]))
        return _once(pa.concat_tables(self._found))


def _compares(config: ExclusionsConfig) -> bool:
    return config.near_radius is not None or config.repeat_radius is not None


def _evaluation(config: ExclusionsConfig, inputs: Inputs) -> Iterator[pa.Table]:
    for name in sorted(set(inputs) - {"unlabelled", "fingerprints"}):
        yield from _seen(config, inputs, name)


def _seen(config: ExclusionsConfig, inputs: Inputs, name: str) -> Iterator[pa.Table]:
    """The images of a set, a table of SEEN a part; hashes are null where nothing is compared."""
    stored = name == "unlabelled" and "fingerprints" in inputs
    for index, table in enumerate(_stored(inputs) if stored else _read(config, inputs[name])):
        hashes = table["hash"] if "hash" in table.column_names else pa.nulls(len(table), pa.uint64())
        where = {"set": pa.repeat(name, len(table)), "part": pa.repeat(pa.scalar(index, pa.int32()), len(table))}
        yield pa.table({"image_id": table["image_id"], "hash": hashes, **where}, schema=SEEN)


def _read(config: ExclusionsConfig, url: str) -> Iterator[pa.Table]:
    artifact = Artifact.open(url)
    for part in artifact.manifest.parts:
        if _compares(config):
            yield fingerprint(read_images(artifact, part, ["image_id", "image", "reason"]))
        else:
            yield read_images(artifact, part, ["image_id"])


def _stored(inputs: Inputs) -> Iterator[pa.Table]:
    """The fingerprints of the unlabelled images, but for parts set aside; raises `DataError` for those of others."""
    images, hashed = (Artifact.open(inputs[name]) for name in ("unlabelled", "fingerprints"))
    if hashed.manifest.inputs["unlabelled"] != images.manifest.content_digest:
        raise DataError(f"{hashed.url}: fingerprints of other images than {images.url}; fingerprint these")
    for part in hashed.manifest.parts:
        table = from_bytes(hashed.read(part), FINGERPRINTS, f"{hashed.url}/{part.path}")
        yield table.filter(pc.field("image_id").is_valid())


def _once(table: pa.Table) -> pa.Table:
    """Each image once, in order of id: where it stands first."""
    table = table.sort_by([(name, "ascending") for name in ("image_id", "set", "part")])
    ids = table["image_id"].combine_chunks()
    first = pc.call_function("not_equal", [ids[1:], ids[:-1]]).to_numpy(zero_copy_only=False)
    return table.filter(np.concatenate([np.ones(min(1, len(ids)), bool), first]))


def _look_alikes(config: ExclusionsConfig, evaluation: pa.Table) -> pa.Table:
    """Evaluation images with another one within the radius, each with its nearest: a table of PAIRS.

    Their share is also what hashes would take, by mistake, of unlabelled images of the same kind: images that are
    unlike, from as many, drawn alike.
    """
    radius = config.repeat_radius if config.near_radius is None else config.near_radius
    if radius is None:
        return PAIRS.empty_table()
    images = evaluation.take(_hashed_rows(evaluation))
    hashes, last = _hashes(images), len(images) - 1
    before, distance = nearest_before(hashes, radius)
    after, distance_after = (found[::-1] for found in nearest_before(hashes[::-1], radius))
    later = (before < 0) | ((after >= 0) & (distance_after < distance))
    row, distance = np.where(later & (after >= 0), last - after, before), np.where(later, distance_after, distance)
    alike = np.flatnonzero(row >= 0)
    return _pairs("look_alike", images.take(alike), images.take(row[alike]), distance[alike])


def _mistrust(config: ExclusionsConfig, share: float, num_images: int) -> str:
    radius = config.repeat_radius if config.near_radius is None else config.near_radius
    return (
        f"no near copies are looked for: {share:.1%} of {num_images:,} evaluation images are within {radius} bits of "
        f"another one, more than max_look_alikes={config.max_look_alikes:.1%}; as many others would be taken for "
        "copies. Lower data.duplicates.near_radius, or raise max_look_alikes if the figure shows true copies"
    )


def _pairs(reason: str, images: pa.Table, others: pa.Table | None = None, distance: Rows | None = None) -> pa.Table:
    """Rows of PAIRS from rows of SEEN: images, and the others that they resemble."""
    columns = {name: images[name] for name in ("image_id", "set", "part")}
    columns["reason"] = pa.repeat(reason, len(images))
    if others is not None:
        columns |= {"resembles": others["image_id"], "distance": pa.array(distance, pa.int32())}
        columns |= {"resembles_set": others["set"], "resembles_part": others["part"]}
    return pa.table({field.name: columns.get(field.name, pa.nulls(len(images), field.type)) for field in PAIRS}, PAIRS)


def _hashed_rows(images: pa.Table) -> Rows:
    return np.flatnonzero(images["hash"].is_valid().to_numpy())


def _hashes(images: pa.Table) -> np.ndarray:
    return images["hash"].drop_null().to_numpy()
