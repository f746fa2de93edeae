"""A sample of what a selection kept and dropped, of any number of images: a few parts of each artifact are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from noisystudent_core.config.evaluation import ReportConfig
from noisystudent_core.data.parts import read_images
from noisystudent_core.data.schemas import PREDICTIONS, SELECTION, from_bytes
from noisystudent_core.evaluation.figures import Group
from noisystudent_core.evaluation.galleries import Gallery, tiles
from noisystudent_core.pseudo_labels.predicted import Excluded, check_aligned
from noisystudent_core.storage.manifest import Artifact, Inputs

MOST_SELECTED = 2_000_000  # rows of the selection that are read
HISTOGRAM_PARTS = 50  # parts of predictions that are counted
NUM_PICTURES = 16  # of each group
KEPT, COPIED = "kept", "copied"
HEADINGS = {
    KEPT: "Kept, once",
    COPIED: "Kept, with copies",
    "below_threshold": "Dropped, below the threshold",
    "over_target": "Dropped, their class was full",
    "repeated": "Dropped, repeats of an image",
    "evaluation_image": "Dropped, evaluation images",
    "near_evaluation_image": "Dropped, near copies of evaluation images",
    "near_repeated": "Dropped, near repeats of an image",
    "undecodable": "Dropped, undecodable",
    "not_finite": "Dropped, without a confidence",
}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What became of some of the images that the selector labelled, and the selection's own counts of all."""

    rows: list[dict[str, Any]]  # label, confidence, fate, copies, part, row
    before: NDArray[np.float32]  # confidences
    after: NDArray[np.float32]
    after_copies: NDArray[np.int32]
    threshold: float
    classes: Sequence[Mapping[str, int]]
    drops: Mapping[str, int]
    summary: str
    histogram_note: str


def spaced(number: int, most: int) -> list[int]:
    """At most `most` of 0, 1, ..., number - 1, evenly spaced."""
    return sorted({int(place) for place in np.linspace(0, number - 1, min(most, number)).round()}) if number else []


def sample_selection(config: ReportConfig, inputs: Inputs) -> Sample | None:
    """Read a sample; None where one of "images", "selection" and "predictions" is not among the inputs.

    A row counts as `select_images` says. Where more than `MOST_SELECTED` images are selected, the sample has images of
    the smallest ids alone, which are hashes.
    """
    if not {"images", "selection", "predictions"} <= inputs.keys():
        return None
    predictions, selection = Artifact.open(inputs["predictions"]), Artifact.open(inputs["selection"])
    check_aligned(predictions, Artifact.open(inputs["images"]))
    selected, whole = _selected(selection)
    threshold = selection.manifest.config["threshold"]
    excluded = Excluded.read(inputs.get("exclusions")).reasons
    rows = [
        row
        for index in spaced(len(predictions.manifest.parts), config.num_parts)
        for row in _fates(predictions, index, selected, whole, np.float32(threshold), excluded)
    ]
    before = _confidences(predictions)
    found, drops = selection.manifest.facts, selection.manifest.drops
    said = [f"{HEADINGS.get(reason, reason).removeprefix('Dropped, ')} {count:,}" for reason, count in drops.items()]
    return Sample(
        rows=rows,
        before=before,
        after=selected["confidence"].to_numpy(),
        after_copies=selected["copies"].to_numpy(),
        threshold=threshold,
        classes=found["classes"],
        drops=drops,
        summary=f"Of {found['num_unlabelled']:,} unlabelled images {found['num_selected']:,} were selected, "
        f"{found['num_copies']:,} with copies" + (f"; dropped: {', '.join(said)}." if said else "."),
        histogram_note=f"Counted: {len(before):,} predictions, {len(selected):,} selected images.",
    )


def selection_gallery(sample: Sample, inputs: Inputs, names: Sequence[str] | None) -> Gallery | None:
    """Pseudo-labelled images by what became of them, each group from the highest confidence to the lowest."""
    groups: list[Group] = []
    images = Artifact.open(inputs["images"])
    tables: dict[int, pa.Table] = {}
    for fate in [*HEADINGS, *sorted({row["fate"] for row in sample.rows} - HEADINGS.keys())]:
        rows = sorted((row for row in sample.rows if row["fate"] == fate), key=lambda row: -row["confidence"])
        chosen = [rows[place] for place in spaced(len(rows), NUM_PICTURES)]
        if chosen:
            count = f": {sample.drops[fate]:,} images" if fate in sample.drops else ""
            groups.append(_group(f"{HEADINGS.get(fate, fate)}{count}", chosen, images, tables, names))
    if not groups:
        return None
    return Gallery(
        name="pseudo-labels",
        title="Pseudo-labelled images",
        subtitle="With the selector's class and confidence, evenly spaced from the highest confidence to the lowest",
        caption="With the selector's class and confidence. Each group is evenly spaced from the highest confidence to "
        f"the lowest of a sample of {len(sample.rows):,} images.",
        groups=groups,
    )


def _group(
    heading: str,
    rows: Sequence[Mapping[str, Any]],
    images: Artifact,
    tables: dict[int, pa.Table],
    names: Sequence[str] | None,
) -> Group:
    columns = ["image", "height", "width", "reason"]
    for part in {row["part"] for row in rows} - tables.keys():
        tables[part] = read_images(images, images.manifest.parts[part], columns)
    pixels, there = tiles(pa.concat_tables([tables[row["part"]].slice(row["row"], 1) for row in rows]))
    shown = [row for row, is_there in zip(rows, there, strict=True) if is_there]
    return Group(
        heading=heading,
        images=pixels[there],
        captions=[str(names[row["label"]]) if names else str(row["label"]) for row in shown],
        notes=[f"{row['confidence']:.1%}" + (f" × {row['copies']}" if row["copies"] > 1 else "") for row in shown],
    )


def _selected(selection: Artifact) -> tuple[pa.Table, bool]:
    """The first rows of a selection, in order of id, and whether they are all."""
    tables, num_rows = [SELECTION.empty_table()], 0
    for part in selection.manifest.parts:
        if num_rows and num_rows + part.num_rows > MOST_SELECTED:
            return pa.concat_tables(tables), False
        tables.append(from_bytes(selection.read(part), SELECTION, f"{selection.url}/{part.path}", SELECTION.names))
        num_rows += part.num_rows
    return pa.concat_tables(tables), True


def _confidences(predictions: Artifact) -> NDArray[np.float32]:
    """Finite confidences of parts that are evenly spaced."""
    parts = predictions.manifest.parts
    found = [_predicted(predictions, index)["confidence"] for index in spaced(len(parts), HISTOGRAM_PARTS)]
    confidence = pa.chunked_array([chunk for column in found for chunk in column.chunks], pa.float32()).drop_null()
    values = confidence.to_numpy()
    return values[np.isfinite(values)]


def _predicted(predictions: Artifact, index: int) -> pa.Table:
    part = predictions.manifest.parts[index]
    return from_bytes(predictions.read(part), PREDICTIONS, f"{predictions.url}/{part.path}", PREDICTIONS.names)


def _fates(
    predictions: Artifact,
    index: int,
    selected: pa.Table,
    whole: bool,
    threshold: np.float32,
    excluded: Mapping[bytes, str],
) -> list[dict[str, Any]]:
    """What became of the images of one part; those without a label, which have no place in an order, are left out."""
    mine = selected.filter(pc.field("part") == index)
    copies = dict(zip(mine["row"].to_pylist(), mine["copies"].to_pylist(), strict=True))
    table = _predicted(predictions, index)
    options = pc.SetLookupOptions(selected["image_id"].combine_chunks())
    repeated = pc.call_function("is_in", [table["image_id"]], options).to_pylist()
    last = selected["image_id"][-1].as_py() if len(selected) else b""
    found = []
    for number, row in enumerate(table.to_pylist()):
        known = whole or row["image_id"] <= last
        if not known or row["reason"] or row["label"] is None or not np.isfinite(row["confidence"]):
            continue
        if number in copies:
            fate = COPIED if copies[number] > 1 else KEPT
        elif row["image_id"] in excluded:
            fate = excluded[row["image_id"]]
        elif np.float32(row["confidence"]) <= threshold:
            fate = "below_threshold"
        else:
            fate = "repeated" if repeated[number] else "over_target"
        kept = {name: row[name] for name in ("label", "confidence")}
        found.append({**kept, "fate": fate, "copies": copies.get(number, 0), "part": index, "row": number})
    return found
