"""Selection against a brute-force oracle, and what users rely on: exact targets, counted drops, the same bytes."""

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noisystudent_core.config.data import ExclusionsConfig, IngestConfig, PrepareConfig
from noisystudent_core.config.settings import PredictConfig, StageSettings
from noisystudent_core.data.schemas import EXCLUSIONS, IMAGES, PREDICTIONS, SELECTION, from_bytes, to_bytes
from noisystudent_core.errors import ConfigurationError, DataError, LabelError
from noisystudent_core.pseudo_labels import buckets, passes, predicted
from noisystudent_core.pseudo_labels.select import select
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import Artifact, Manifest, publish_manifest, publish_part

FOLDERS = (f"memory://select/{number}" for number in itertools.count())


@dataclass(frozen=True)
class Row:
    """A predicted image; no confidence: undecodable."""

    image_id: bytes
    label: int = 0
    confidence: float | None = 0.9


def image_id(number: int) -> bytes:
    """Ids that share either half with others, and do not order as signed numbers do."""
    return bytes([255 * (number % 2), number // 20]) + bytes(7) + number.to_bytes(7, "big")


def write_artifact(
    config: StageSettings, schema: pa.Schema, parts: Sequence[Mapping[str, Any]], facts: Mapping[str, Any] | None = None
) -> str:
    url = next(FOLDERS)
    stored = []
    for number, part in enumerate(parts):
        num_rows = len(part["image_id"])
        table = pa.table({name: part.get(name, [None] * num_rows) for name in schema.names})
        stored.append(publish_part(Folder.at(url), f"{number}.parquet", to_bytes(table, schema), num_rows))
    publish_manifest(url, config, {}, tuple(stored), facts=facts)
    return url


def write_predictions(parts: Sequence[Sequence[Row]]) -> str:
    columns = [
        {
            "image_id": [row.image_id for row in rows],
            "label": pa.array([None if row.confidence is None else row.label for row in rows], pa.int32()),
            "confidence": pa.array([row.confidence for row in rows], pa.float32()),
            "reason": pa.array(["truncated" if row.confidence is None else None for row in rows], pa.string()),
        }
        for rows in parts
    ]
    return write_artifact(PredictConfig(), PREDICTIONS, columns)


def write_images(parts: Sequence[Sequence[Row]]) -> str:
    return write_artifact(PrepareConfig(), IMAGES, [{"image_id": [row.image_id for row in rows]} for rows in parts])


def write_labelled(class_counts: Sequence[int]) -> str:
    config = PrepareConfig(ingest=IngestConfig(num_classes=len(class_counts)))
    return write_artifact(config, IMAGES, [{"image_id": []}], {"class_counts": dict(enumerate(class_counts))})


def write_exclusions(of: Mapping[bytes, str]) -> str:
    return write_artifact(ExclusionsConfig(), EXCLUSIONS, [{"image_id": list(of), "reason": list(of.values())}])


def run(parts: Sequence[Sequence[Row]], out: str | None = None, **options: Any) -> tuple[list[Any], Manifest]:
    """Select from these parts; gives the selected rows and the manifest."""
    given = {"threshold": 0.3, "num_images_per_class": 3, "seed": 0} | options
    where = out or next(FOLDERS)
    manifest = select(write_predictions(parts), write_images(parts), where, **given)
    artifact = Artifact.open(where)
    tables = [from_bytes(artifact.read(part), SELECTION, where) for part in manifest.parts]
    return pa.concat_tables(tables).to_pylist(), manifest


def splitmix64(word: int) -> int:
    word = (word + 0x9E3779B97F4A7C15) % 2**64
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ word >> 27) * 0x94D049BB133111EB % 2**64
    return word ^ word >> 31


def hash_of(image: bytes, seed: int) -> int:
    high, low = int.from_bytes(image[:8], "big"), int.from_bytes(image[8:], "big")
    return splitmix64(splitmix64(splitmix64(seed % 2**64) ^ high) ^ low)


def filtered(rows: Sequence[Row], exclusions: Mapping[bytes, str], threshold: float) -> tuple[list[Row], Counter[str]]:
    """The rules in plain Python, one row at a time; the oracle's first half."""
    drops: Counter[str] = Counter()
    best: dict[bytes, Row] = {}
    for row in rows:
        if row.confidence is None:
            drops["undecodable"] += 1
        elif not math.isfinite(row.confidence):
            drops["not_finite"] += 1
        elif row.image_id in exclusions:
            drops[exclusions[row.image_id]] += 1
        elif np.float32(row.confidence) <= np.float32(threshold):
            drops["below_threshold"] += 1
        else:
            drops["repeated"] += row.image_id in best
            rivals = (row, best.get(row.image_id, row))
            best[row.image_id] = min(rivals, key=lambda rival: (-np.float32(rival.confidence), rival.label))
    return list(best.values()), drops


def balanced(rows: Sequence[Row], target: int, max_copies: int | None, seed: int) -> list[tuple[Row, int]]:
    chosen = sorted(rows, key=lambda row: (-np.float32(row.confidence), row.image_id))[:target]
    drawn = sorted(chosen, key=lambda row: (hash_of(row.image_id, seed), row.image_id))
    copies = [target // len(chosen) + (place < target % len(chosen)) for place in range(len(chosen))]
    return [(row, min(number, max_copies or number)) for row, number in zip(drawn, copies, strict=True)]


def oracle(rows: Sequence[Row], exclusions: Mapping[bytes, str], options: Mapping[str, Any]) -> tuple[list[Any], Any]:
    kept, drops = filtered(rows, exclusions, options["threshold"])
    selected = []
    for label in {row.label for row in kept}:
        target = options["balance"].get(label, options["num_images_per_class"])
        of_class = [row for row in kept if row.label == label]
        selected += balanced(of_class, target, options["max_copies"], options["seed"])
    drops["over_target"] = len(kept) - len(selected)
    return sorted((row.image_id, row.label, np.float32(row.confidence), copies) for row, copies in selected), +drops


CONFIDENCES = st.sampled_from([0.0, 0.29, 0.3, 0.31, 0.5, 0.7, 0.7000001, 1.0, 1.0, math.nan, math.inf, None])
ROWS = st.lists(st.builds(Row, st.integers(0, 40).map(image_id), st.integers(0, 3), CONFIDENCES), max_size=40)
OPTIONS = st.fixed_dictionaries(
    {
        "threshold": st.sampled_from([0.0, 0.3, 0.7]),
        "num_images_per_class": st.integers(1, 9),
        "balance": st.dictionaries(st.integers(0, 3), st.integers(1, 9)),
        "max_copies": st.none() | st.integers(1, 3),
        "seed": st.integers(-2, 2**70),
    }
)
REASONS = st.sampled_from(["evaluation_image", "repeated"])
EXCLUDED = st.dictionaries(st.integers(0, 40).map(image_id), REASONS, max_size=4)


def split(rows: Sequence[Row], cuts: Sequence[int]) -> list[list[Row]]:
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    return [list(rows[start:end]) for start, end in itertools.pairwise(edges)]


@settings(max_examples=150, deadline=None)
@given(rows=ROWS, options=OPTIONS, exclusions=EXCLUDED, data=st.data())
def test_any_order_and_split_gives_what_the_oracle_gives(
    rows: list[Row], options: dict[str, Any], exclusions: dict[bytes, str], data: st.DataObject
) -> None:
    parts = split(data.draw(st.permutations(rows)), data.draw(st.lists(st.integers(0, 40), max_size=3)))
    expected, drops = oracle(rows, exclusions, options)
    if not expected:
        with pytest.raises(DataError, match="is selected"):
            run(parts, exclusions=write_exclusions(exclusions), **options)
        return
    batch_rows, bucket_rows = (data.draw(st.sampled_from([1, 5, 2**20])) for _ in range(2))
    with patch.object(predicted, "BATCH_ROWS", batch_rows), patch.object(buckets, "BUCKET_ROWS", bucket_rows):
        selection, manifest = run(parts, exclusions=write_exclusions(exclusions), **options)
    assert [tuple(row.values())[:4] for row in selection] == expected
    assert manifest.drops == drops
    assert sum(manifest.drops.values()) + manifest.num_rows == len(rows)
    for row in selection:
        there = parts[row["part"]][row["row"]]
        assert (there.image_id, there.label) == (row["image_id"], row["label"])
        assert np.float32(there.confidence) == row["confidence"]


def crowd(num_rows: int, num_classes: int, seed: int = 0) -> list[Row]:
    """Rows with many ties and no repeats."""
    draw = np.random.default_rng(seed)
    labels, levels = draw.integers(0, num_classes, num_rows), draw.integers(1, 20, num_rows) / 20
    return [Row(image_id(i), int(labels[i]), float(levels[i])) for i in range(num_rows)]


def test_the_same_rows_split_otherwise_give_the_same_columns() -> None:
    splits = split(crowd(500, 4), []), split(crowd(500, 4)[::-1], [7, 7, 300])
    one, other = (run(parts, num_images_per_class=60)[0] for parts in splits)
    assert [tuple(row.values())[:4] for row in one] == [tuple(row.values())[:4] for row in other]
    assert [row["row"] for row in one] != [row["row"] for row in other]


def test_parts_are_cut_by_id_whatever_the_split_of_what_is_read() -> None:
    with patch.object(buckets, "BUCKET_ROWS", 100):
        splits = split(crowd(500, 4), []), split(crowd(500, 4)[::-1], [7, 7, 300])
        one, other = (run(parts, num_images_per_class=60)[1].parts for parts in splits)
    assert [(part.path, part.num_rows) for part in one] == [(part.path, part.num_rows) for part in other]
    assert len(one) > 1


def test_one_thread_gives_the_bytes_of_eight() -> None:
    parts, chosen = split(crowd(500, 4), list(range(0, 500, 9))), []
    for num_threads in (1, 8):
        with (
            patch.object(passes, "MAX_THREADS", num_threads),
            patch.object(passes, "EXTRA_THREADS", 8),
            patch.object(predicted, "GROUP_ROWS", 20),
            patch.object(buckets, "BUCKET_ROWS", 100),
        ):
            chosen.append(run(parts, num_images_per_class=60)[1].parts)
    assert chosen[0] == chosen[1]


def test_selecting_twice_gives_the_same_bytes() -> None:
    first, second = (run([crowd(500, 4)], num_images_per_class=200)[1] for _ in range(2))
    assert first.parts == second.parts


def test_a_class_with_too_few_images_has_exactly_the_target_with_copies() -> None:
    selection, manifest = run([crowd(7, 1)], num_images_per_class=100, threshold=0.0)
    copies = [row["copies"] for row in selection]
    assert sum(copies) == 100
    assert max(copies) - min(copies) == 1
    (of_class,) = manifest.facts["classes"]
    assert of_class == {"class": 0, "predicted": 7, "above_threshold": 7, "selected": 7, "copies": 100, "target": 100}


def test_the_seed_decides_whose_copies_are_more() -> None:
    runs = [run([crowd(7, 1)], num_images_per_class=10, threshold=0.0, seed=seed)[0] for seed in range(5)]
    assert len({tuple(row["copies"] for row in rows) for rows in runs}) > 1


def test_capped_and_empty_classes_are_reported() -> None:
    rows = [Row(image_id(1), 0), Row(image_id(2), 2, 0.1), Row(image_id(3), 3), Row(image_id(4), 3)]
    _, manifest = run([rows], num_images_per_class=2, max_copies=1)
    assert manifest.facts["capped_classes"] == [0]
    assert manifest.facts["empty_classes"] == [1, 2]
    assert manifest.facts["num_copies"] == 3
    assert manifest.drops == {"below_threshold": 1}


def test_every_reason_is_counted_by_name() -> None:
    rows = [Row(image_id(0), confidence=None), Row(image_id(1), confidence=math.nan), Row(image_id(2), confidence=0.3)]
    rows += [Row(image_id(number)) for number in (3, 3, 4, 5, 6)]
    excluded = write_exclusions({image_id(4): "evaluation_image"})
    selection, manifest = run([rows], num_images_per_class=2, exclusions=excluded)
    assert [row["image_id"] for row in selection] == [image_id(6), image_id(3)]
    reasons = ("undecodable", "not_finite", "below_threshold", "repeated", "evaluation_image", "over_target")
    assert manifest.drops == dict.fromkeys(reasons, 1)


def test_the_best_of_equal_ids_stays_though_another_class_has_no_room_for_it() -> None:
    rows = [Row(image_id(1), 0, 0.8), Row(image_id(2), 0, 0.9), Row(image_id(1), 1, 0.5), Row(image_id(3), 1, 0.4)]
    selection, manifest = run([rows], num_images_per_class=1)
    assert {row["image_id"]: row["label"] for row in selection} == {image_id(2): 0, image_id(3): 1}
    assert manifest.drops == {"repeated": 1, "over_target": 1}


def test_the_labelled_prior_is_shared_out_exactly() -> None:
    labelled = write_labelled([3, 2, 2])
    _, manifest = run([crowd(300, 3)], num_images_per_class=10, balance="labelled_prior", labelled=labelled)
    assert [row["copies"] for row in manifest.facts["classes"]] == [13, 9, 8]  # of 30: 12.86, 8.57, 8.57


def test_labelled_images_name_the_classes() -> None:
    assert run([crowd(300, 3)], labelled=write_labelled([1] * 5))[1].facts["empty_classes"] == [3, 4]
    with pytest.raises(LabelError, match="predicted label 2; must be 0 to 1"):
        run([[Row(image_id(1), 2)]], labelled=write_labelled([1, 1]))


def test_nothing_above_the_threshold_says_what_was_seen() -> None:
    with pytest.raises(DataError, match=r"threshold=0.95: none of 20 images .* 0\.9500; lower the threshold"):
        run([[Row(image_id(number), 0, 0.95) for number in range(20)]], threshold=0.95)
    with pytest.raises(DataError, match="none of 1 images"):
        run([[Row(image_id(1), confidence=None)]])


def test_a_finished_selection_is_returned_and_another_never_mixed_with_it() -> None:
    parts, out = [crowd(50, 2)], next(FOLDERS)
    assert run(parts, out) == run(parts, out)
    with pytest.raises(ConfigurationError, match=f"{out}: holds .*folder"):
        run(parts, out, seed=1)


def test_a_part_left_by_another_selection_is_not_adopted() -> None:
    out = next(FOLDERS)
    publish_part(Folder.at(out), "part-00000.parquet", b"left by a killed run", 1)
    with pytest.raises(ConfigurationError, match="unfinished selection"):
        run([crowd(50, 2)], out)


def test_predictions_of_other_images_are_refused() -> None:
    rows, options = crowd(50, 2), {"threshold": 0.3, "num_images_per_class": 5, "seed": 0}
    with pytest.raises(DataError, match=r"50 rows in 1 parts.*49 in 1"):
        select(write_predictions([rows]), write_images([rows[1:]]), next(FOLDERS), **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threshold": 1.0}, "threshold=1.0"),
        ({"num_images_per_class": 0, "max_copies": 0}, "num_images_per_class=0.*max_copies=0"),
        ({"balance": "even"}, "balance='even'"),
        ({"balance": "labelled_prior"}, "labelled images"),
        ({"balance": {-1: 5}}, "class -1"),
    ],
)
def test_settings_outside_their_limits_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        run([crowd(9, 2)], **options)
