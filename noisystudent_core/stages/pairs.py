"""The images that were taken for the same, drawn side by side, so that a user sees what a radius means."""

import base64
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from noisystudent_core.data.parts import read_images
from noisystudent_core.data.schemas import IMAGE_ID, NEAR_EXCLUSIONS
from noisystudent_core.evaluation.contact_sheet import Pair, contact_sheet
from noisystudent_core.events import Events, silent
from noisystudent_core.storage.manifest import Artifact, Inputs

# an image that resembles another, and where both stand: the input, and which of its parts
PAIRS = pa.schema(
    [
        *NEAR_EXCLUSIONS,
        pa.field("set", pa.string()),
        pa.field("part", pa.int32()),
        pa.field("resembles_set", pa.string()),
        pa.field("resembles_part", pa.int32()),
    ]
)
NUM_PAIRS = 24  # that are drawn
NUM_PARTS = 8  # that are read for them: some 2 GB
WORDS = {
    "near_evaluation_image": "unlabelled | evaluation",
    "near_repeated": "unlabelled | unlabelled",
    "look_alike": "evaluation | evaluation",
}
TITLES = {"look_alike": "Too much alike to tell copies: nothing is left out for its looks"}

Where = tuple[str, int]  # an input's name, and which of its parts


def show_pairs(pairs: pa.Table, inputs: Inputs, events: Events) -> None:
    """Report the figure "near-copies": of rows of PAIRS the farthest apart, the most doubtful ones, unless none is."""
    near = pairs.filter(pc.field("resembles").is_valid())
    if events is silent or not near.num_rows:
        return
    chosen = list(in_few_parts(near.sort_by([("distance", "descending"), ("image_id", "ascending")])))
    files = files_of(chosen, inputs)
    drawn = [
        Pair(
            left=files[row["image_id"]],
            right=files[row["resembles"]],
            caption=f"{WORDS[row['reason']]}, {row['distance']} bits",
        )
        for row in chosen
    ]
    subtitle = f"{len(drawn)} of {near.num_rows:,} pairs, those whose hashes differ most first"
    png = contact_sheet(TITLES.get(chosen[0]["reason"], "Taken for the same image"), subtitle, drawn)
    events("figure", name="near-copies", png=base64.b64encode(png).decode())


def in_few_parts(rows: pa.Table) -> Iterator[dict]:
    """The first NUM_PAIRS rows that stand in NUM_PARTS parts."""
    parts: set[Where] = set()
    num_pairs = 0
    for batch in rows.to_batches(max_chunksize=1024):
        for row in batch.to_pylist():
            both = parts | {(row["set"], row["part"]), (row["resembles_set"], row["resembles_part"])}
            if len(both) <= NUM_PARTS:
                parts = both
                num_pairs += 1
                yield row
            if num_pairs == NUM_PAIRS:
                return


def files_of(rows: list[dict], inputs: Inputs) -> dict[bytes, bytes]:
    """The image files of both sides of these rows, by image id."""
    wanted: dict[Where, list[bytes]] = {}
    for row in rows:
        wanted.setdefault((row["set"], row["part"]), []).append(row["image_id"])
        wanted.setdefault((row["resembles_set"], row["resembles_part"]), []).append(row["resembles"])
    files: dict[bytes, bytes] = {}
    for (name, part), ids in wanted.items():
        artifact = Artifact.open(inputs[name])
        table = read_images(artifact, artifact.manifest.parts[part], ["image_id", "image"])
        table = table.filter(pc.field("image_id").isin(pa.array(ids, IMAGE_ID)))
        files |= dict(zip(table["image_id"].to_pylist(), table["image"].to_pylist(), strict=True))
    return files
