"""The images of a fit as they are stored, part by part, and what is known of each."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from noisystudent_core.data.references import images_from_bytes
from noisystudent_core.data.schemas import SELECTION, distributions, from_bytes, read_column
from noisystudent_core.errors import CorruptArtifactError
from noisystudent_core.storage.cache import ReadPart
from noisystudent_core.storage.manifest import Artifact, Part

NUM_READERS = 8  # columns read at once from a bucket, where a read waits


class EncodedImages(Protocol):
    """Images that lie in parts."""

    url: str
    part_sizes: list[int]  # images of each part

    def read(self, part: int, places: Tensor) -> tuple[list[bytes], Tensor]:
        """Some images of a part, `places` int64 [N] of 0 .. size - 1 in ascending order, and what is known of each."""
        ...


class LabelledParts:
    """The decodable images of a labelled artifact, with their labels int64 [N]."""

    def __init__(self, url: str, read: ReadPart = Artifact.read) -> None:
        self.url, self._read = url, read
        self._artifact = Artifact.open(url)
        manifest = self._artifact.manifest
        self.part_sizes = [part.num_rows for part in manifest.parts]
        if sum(manifest.drops.values()):
            with ThreadPoolExecutor(NUM_READERS) as pool:
                self.part_sizes = list(pool.map(self._num_good, manifest.parts))

    def read(self, part: int, places: Tensor) -> tuple[list[bytes], Tensor]:
        """See `EncodedImages`."""
        stored = self._artifact.manifest.parts[part]
        table = _images(self._artifact, stored, self._read, ["image", "label", "reason"])
        table = table.filter(pc.field("reason").is_null())
        if table.num_rows != self.part_sizes[part]:
            raise CorruptArtifactError(
                f"{self.url}/{stored.path}: {table.num_rows} images can be decoded, not {self.part_sizes[part]}; "
                "delete the artifact to have it made again"
            )
        labels = torch.from_numpy(table["label"].to_numpy().astype("int64"))
        return _pick(table["image"], places), labels[places]

    def _num_good(self, part: Part) -> int:
        """How many images of a part have no reason against them; reads that column alone."""
        return _column(self._artifact, part, "reason", self._read).null_count


class SelectedParts:
    """The selected images of an unlabelled artifact that have a label, with the teacher's distributions float32 [N, C].

    They are those of a selection, or without one all of a `selected_images` artifact.
    `copies` int32 [N] is how often each is seen in a pass, part by part.
    Raises `CorruptArtifactError` where the predictions are not of the selected rows, all of them.
    """

    def __init__(
        self, images_url: str, selection_url: str | None, predictions_url: str, read: ReadPart = Artifact.read
    ) -> None:
        self.url, self._selection_url, self._read = images_url, selection_url or images_url, read
        self._images, self._predictions = Artifact.open(images_url), Artifact.open(predictions_url)
        self._parts: list[int] = self._predictions.manifest.facts["image_parts"]
        self.part_sizes = [part.num_rows for part in self._predictions.manifest.parts]
        part, self._rows, self.copies = _references(selection_url) if selection_url else _all(self._images, read)
        found, sizes = np.unique(part, return_counts=True)
        if found.tolist() != self._parts or sizes.tolist() != self.part_sizes:
            raise self._others(predictions_url)
        if self._predictions.manifest.drops:
            self._leave_out()
        self._starts = np.cumsum([0, *self.part_sizes])

    def read(self, part: int, places: Tensor) -> tuple[list[bytes], Tensor]:
        """See `EncodedImages`."""
        rows = self._rows[self._starts[part] : self._starts[part + 1]]
        stored = self._images.manifest.parts[self._parts[part]]
        table = _images(self._images, stored, self._read, ["image_id", "image"])
        labelled, where = self._labelled(part, ["image_id", "probabilities", "reason"])
        labelled = labelled.filter(pc.field("reason").is_null())
        if not labelled["image_id"].equals(table["image_id"].take(pa.array(rows))):
            raise self._others(where)
        probabilities = _matrix(labelled["probabilities"], self._predictions.manifest.facts["num_classes"])
        return _pick(table["image"], rows[places.numpy()]), probabilities[places]

    def _leave_out(self) -> None:
        """Forget the images to which the teacher gave no label: undecodable by then, or of a part set aside."""
        with ThreadPoolExecutor(NUM_READERS) as pool:
            good = list(pool.map(self._good, range(len(self._parts))))
        kept = np.concatenate(good)
        self._rows, self.copies = self._rows[kept], self.copies[torch.from_numpy(kept)]
        self.part_sizes = [int(of_part.sum()) for of_part in good]

    def _good(self, part: int) -> np.ndarray:
        """Which of a part's selected rows have a label, bool [N]."""
        return self._labelled(part, ["reason"])[0]["reason"].is_null().to_numpy()

    def _labelled(self, part: int, columns: list[str]) -> tuple[pa.Table, str]:
        stored = self._predictions.manifest.parts[part]
        where = f"{self._predictions.url}/{stored.path}"
        schema = distributions(self._predictions.manifest.facts["num_classes"])
        return from_bytes(self._read(self._predictions, stored), schema, where, columns), where

    def _others(self, where: str) -> CorruptArtifactError:
        return CorruptArtifactError(
            f"{where}: its images are not those of {self._selection_url}; predict that selection"
        )


def undecodable(source: EncodedImages, part: int, place: int, reason: str) -> CorruptArtifactError:
    """The error for an image that some library could decode when it was taken in, and this one cannot."""
    return CorruptArtifactError(
        f"{source.url}: image {place} of those of part {part} cannot be decoded ({reason}), although it could when it "
        "was taken in; install the versions of the manifest, or prepare the source again"
    )


def _references(selection_url: str) -> tuple[np.ndarray, np.ndarray, Tensor]:
    """Part, row and copies, int32 [N], of every selected image, in the order of parts and rows."""
    artifact = Artifact.open(selection_url)
    names = ["part", "row", "copies"]
    tables = [
        from_bytes(artifact.read(part), SELECTION, f"{selection_url}/{part.path}", names)
        for part in artifact.manifest.parts
    ]
    part, row, copies = (pa.concat_tables(tables)[name].to_numpy() for name in names)
    order = np.lexsort((row, part))
    return part[order], row[order], torch.from_numpy(copies[order])


def _all(images: Artifact, read: ReadPart) -> tuple[np.ndarray, np.ndarray, Tensor]:
    """The same of every image of a `selected_images` artifact; of each part only the column of copies is read."""
    parts = images.manifest.parts
    with ThreadPoolExecutor(NUM_READERS) as pool:
        copies = list(pool.map(lambda part: _column(images, part, "copies", read).to_numpy(), parts))
    sizes = [part.num_rows for part in parts]
    rows = np.concatenate([np.arange(size, dtype=np.int32) for size in sizes])
    return np.repeat(np.arange(len(parts)), sizes), rows, torch.from_numpy(np.concatenate(copies))


def _column(artifact: Artifact, part: Part, name: str, read: ReadPart) -> pa.ChunkedArray:
    """One column of a part, read alone; where the part is damaged the error says so."""
    place = artifact.folder / part.path
    try:
        with place.fs.open(place.path, "rb") as file:
            return pq.ParquetFile(file).read([name])[name]
    except (FileNotFoundError, pa.ArrowInvalid, KeyError):
        return read_column(read(artifact, part), name, f"{artifact.url}/{part.path}")


def _images(artifact: Artifact, part: Part, read: ReadPart, columns: list[str]) -> pa.Table:
    return images_from_bytes(read(artifact, part), f"{artifact.url}/{part.path}", columns)


def _pick(column: pa.ChunkedArray, rows: Sequence[int] | np.ndarray | Tensor) -> list[bytes]:
    """The values of some rows; by hand, as `take` joins chunks and 2 GB do not fit into one."""
    chunks, start, picked = column.chunks, 0, []
    for row in np.asarray(rows).tolist():
        while row >= start + len(chunks[0]):
            start += len(chunks[0])
            chunks = chunks[1:]
        picked.append(chunks[0][row - start].as_py())
    return picked


def _matrix(column: pa.ChunkedArray, num_classes: int) -> Tensor:
    """Fixed-size lists of float16 as float32 [N, C]."""
    values = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return torch.from_numpy(values.reshape(-1, num_classes).astype("float32"))
