"""Reading image parts, tables of bytes decoded to uint8 batches of one size, and selections, which refer to them."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from noisystudent_core.data.images import decode_batch
from noisystudent_core.data.schemas import IMAGES, SELECTION, from_bytes
from noisystudent_core.storage.manifest import Artifact, Part

NUM_THREADS = 4  # that decode
ANY_SIZE = 2**62  # pixels: the limit was applied when the image was taken in
DECODE_ROWS = 1024  # images decoded at a time: bounds memory on large parts


def read_images(artifact: Artifact, part: Part, columns: list[str]) -> pa.Table:
    """Columns of one part of an `images` artifact; the digest is checked."""
    return from_bytes(artifact.read(part), IMAGES, f"{artifact.url}/{part.path}", columns)


def decode(table: pa.Table, size: int, crop_fraction: float) -> tuple[Tensor, list[str | None]]:
    """Decode `image` of every row to uint8 [N, 3, size, size]; the reason stands for a row that is no image (zeros).

    `table` has the columns `image` and `reason`: what was refused when it was taken in is not decoded again.
    """
    batches, reasons = [torch.empty(0, 3, size, size, dtype=torch.uint8)], []
    for rows in table.to_batches(max_chunksize=DECODE_ROWS):
        refused = rows.column("reason").to_pylist()
        data = [
            b"" if reason else image for image, reason in zip(rows.column("image").to_pylist(), refused, strict=True)
        ]
        images, why = decode_batch(data, size, crop_fraction, num_threads=NUM_THREADS, max_pixels=ANY_SIZE)
        batches.append(images)
        reasons += [before or now for before, now in zip(refused, why, strict=True)]
    return torch.cat(batches), reasons


def labelled_batches(url: str, size: int, crop_fraction: float, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (uint8 [B, 3, size, size], int64 [B]) over every decodable image of a labelled artifact, in order."""
    artifact = Artifact.open(url)
    for part in artifact.manifest.parts:
        table = read_images(artifact, part, ["image", "label", "reason"])
        table = table.filter(pc.field("reason").is_null())
        for rows in table.to_batches(max_chunksize=batch_size):
            images, _ = decode(pa.Table.from_batches([rows]), size, crop_fraction)
            yield images, torch.from_numpy(rows.column("label").to_numpy().astype("int64"))


def read_selection(url: str) -> pa.Table:
    """The whole selection as one table, in image id order."""
    artifact = Artifact.open(url)
    parts = artifact.manifest.parts
    return pa.concat_tables([from_bytes(artifact.read(part), SELECTION, f"{url}/{part.path}") for part in parts])


def rows_of_part(selection: pa.Table, part_index: int) -> pa.Table:
    """The selected images of one image part, in row order."""
    return selection.filter(pc.field("part") == part_index).sort_by("row")
