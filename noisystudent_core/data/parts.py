"""Reading image parts, tables of bytes decoded to uint8 batches of one size, and selections, which refer to them."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from noisystudent_core.data.image_files import NUM_THREADS
from noisystudent_core.data.images import decode_batch
from noisystudent_core.data.mixing import id_seeds
from noisystudent_core.data.references import images_from_bytes
from noisystudent_core.data.selected import selected_images
from noisystudent_core.storage.manifest import Artifact, Part

ANY_SIZE = 2**62  # pixels: the limit was applied when the image was taken in
DECODE_ROWS = 1024  # images decoded at a time: bounds memory on large parts


def read_images(artifact: Artifact, part: Part, columns: list[str]) -> pa.Table:
    """Columns of one part of an `images` artifact; the digest is checked."""
    return images_from_bytes(artifact.read(part), f"{artifact.url}/{part.path}", columns)


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


def labelled_rows(url: str, num_images: int | None = None, seed: int = 0) -> Iterator[pa.Table]:
    """The decodable labelled images of an artifact, part by part: `image_id`, `image`, `label` and `reason`.

    Of more than `num_images` those are taken whose ids, seeded, are the smallest: the same ones however they lie in
    parts.
    """
    artifact = Artifact.open(url)
    taken = None if num_images is None else _sample(artifact, num_images, seed)
    for index, part in enumerate(artifact.manifest.parts):
        if taken is not None and index not in taken:
            continue
        table = read_images(artifact, part, ["image_id", "image", "label", "reason"])
        good = table.filter(pc.field("reason").is_null() & pc.field("label").is_valid())
        yield good if taken is None else good.take(pa.array(taken[index]))


def _sample(artifact: Artifact, num_images: int, seed: int) -> dict[int, np.ndarray]:
    """Rows, among the decodable labelled ones, of the images that are taken, by part."""
    order, where = [], []
    for index, part in enumerate(artifact.manifest.parts):
        table = read_images(artifact, part, ["image_id", "label", "reason"])
        good = table.filter(pc.field("reason").is_null() & pc.field("label").is_valid())
        order.append(id_seeds(seed, good["image_id"]).numpy())
        where.append(np.stack([np.full(len(good), index), np.arange(len(good))], axis=1))
    first = np.sort(np.argsort(np.concatenate(order), kind="stable")[:num_images])
    places = np.concatenate(where)[first]
    return {int(index): places[places[:, 0] == index, 1] for index in np.unique(places[:, 0])}


def labelled_batches(
    url: str, size: int, crop_fraction: float, batch_size: int, num_images: int | None = None, seed: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (uint8 [B, 3, size, size], int64 [B]) over the images that `labelled_rows` yields, in order."""
    for table in labelled_rows(url, num_images, seed):
        for rows in table.to_batches(max_chunksize=batch_size):
            images, _ = decode(pa.Table.from_batches([rows]), size, crop_fraction)
            yield images, torch.from_numpy(rows.column("label").to_numpy().astype("int64"))


def selected_rows(url: str) -> Iterator[tuple[int, np.ndarray]]:
    """Each image part with a selected row, in order, and its selected rows int32, ascending."""
    for index, rows in selected_images(url):
        yield index, np.ascontiguousarray(rows["row"])
