"""Selected images with their bytes, shuffled across parts: a bucket shuffle in two passes, of bounded memory.

Worth it where a small share of a huge corpus is selected: fits then read what they need, and in an order that is random
already. An image's place follows from a seeded hash of its id alone: which part it is in, and where.

The first pass reads image parts, as many as `memory_bytes` allows, sorts their selected images by place, and stores
them beside the artifact, each new part's share in a piece. The second pass reads a part's pieces and writes the part.
Whatever is stored is stored whole, so that a stage that was killed goes on with what is missing.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from noisystudent_core.config.settings import MaterialiseConfig
from noisystudent_core.data.parts import read_images
from noisystudent_core.data.schemas import SELECTED_IMAGES, to_bytes
from noisystudent_core.data.selected import selected_images
from noisystudent_core.errors import ConfigurationError, DataError
from noisystudent_core.events import Events
from noisystudent_core.pseudo_labels.cuts import seeded_hash
from noisystudent_core.pseudo_labels.passes import MAX_THREADS, in_threads
from noisystudent_core.pseudo_labels.predicted import IMAGE_ID, Array, high_words, low_words, numbers
from noisystudent_core.storage.digests import digest
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import Artifact, Inputs, Part, publish_part
from noisystudent_core.storage.stage import Place, Written

COPIES_HELD = 4  # of what is worked on: as read, as sorted, as encoded, and room to grow
STORED = ["image_id", "image", "source", "height", "width", "reason"]  # columns that stay as they are
SELECTED = ["label", "confidence", "copies"]  # and those that the selection gives
MOST_BYTES = 2**31 - 1  # of a part's images, which Arrow numbers with 31 bits
UNIT = "images, read and written"

Group = list[tuple[int, Array]]  # image parts that are read together, each with its selected rows


def materialise_images(config: MaterialiseConfig, inputs: Inputs, place: Place, events: Events) -> Written:
    """Write the selected images of {"images", "selection"}, a stage's work, as `selected_images`.

    The result depends neither on the order and the split of the images, nor on `memory_bytes`. Predictions and fits
    take it as "images", without a selection. Raises `DataError` where the selection is of other images, and
    `ConfigurationError` where a part would be too large.
    """
    images, selection = (Artifact.open(inputs[name]) for name in ("images", "selection"))
    if selection.manifest.inputs["images"] != images.manifest.content_digest:
        raise DataError(f"{selection.url}: selects from other images than those of {images.url}; give those")
    num_images = selection.manifest.num_rows
    shuffle = _Shuffle(config, images, place.scratch, num_parts=-(-num_images // config.images_per_part))
    pieces, done = {}, 0
    for group in shuffle.groups(inputs["selection"]):
        name = f"{group[0][0]:06d}-{group[-1][0]:06d}"
        pieces[name] = shuffle.scatter(group, name)
        done += sum(len(rows) for _, rows in group)
        events("progress", done=done, total=2 * num_images, unit=UNIT)
    parts = []
    for part in shuffle.gather(pieces, place.folder):
        parts += [part] if part.num_rows else []
        done += part.num_rows
        events("progress", done=done, total=2 * num_images, unit=UNIT)
    return Written(tuple(parts), facts={"num_copies": selection.manifest.facts["num_copies"]})


@dataclass(frozen=True)
class _Shuffle:
    """Both passes; pieces lie in `scratch`."""

    config: MaterialiseConfig
    images: Artifact
    scratch: Folder
    num_parts: int

    def groups(self, selection_url: str) -> Iterator[Group]:
        """Neighbouring image parts whose selected images memory holds, going by the sizes of the parts."""
        group: Group = []
        num_bytes = 0.0
        for index, rows in selected_images(selection_url):
            part = self.images.manifest.parts[index]
            size = part.num_bytes * len(rows) / part.num_rows
            if group and COPIES_HELD * (num_bytes + size) > self.config.memory_bytes:
                yield group
                group, num_bytes = [], 0.0
            group.append((index, rows))
            num_bytes += size
        yield group

    def scatter(self, group: Group, name: str) -> Array:
        """Store a group's images in pieces, one a new part; where in the file each begins, and the last ends.

        What an earlier run stored is taken as it is.
        """
        if self.scratch.exists(f"{name}.starts"):  # written after the pieces
            return np.frombuffer(self.scratch.read(f"{name}.starts"), "<i8")
        table, key = _shuffled(pa.concat_tables(in_threads(self._selected, group)), self.config.seed)
        ends = np.searchsorted(self._part_of(key), np.arange(self.num_parts), side="right")
        sink, starts = io.BytesIO(), [0]
        for first, last in zip([0, *ends], ends, strict=False):
            if last > first:
                with pa.ipc.new_stream(sink, table.schema) as stream:
                    stream.write_table(table[first:last])
            starts.append(sink.tell())
        self.scratch.publish(f"{name}.pieces", sink.getvalue())
        self.scratch.publish(f"{name}.starts", np.array(starts, "<i8").tobytes())
        return np.array(starts)

    def gather(self, pieces: dict[str, Array], folder: Folder) -> Iterator[Part]:
        """Write each new part that is not there; all of them, in order. One without images is not written."""
        there = folder.sizes()
        mean_bytes = sum(int(starts[-1]) for starts in pieces.values()) // self.num_parts

        def write(number: int) -> Part:
            path = f"part-{number:05d}.parquet"
            if path in there:
                data = folder.read(path)
                num_rows = pq.read_metadata(pa.BufferReader(data)).num_rows
                return Part(path=path, num_rows=num_rows, num_bytes=len(data), digest=digest(data))
            found = [self._piece(name, *starts[number : number + 2]) for name, starts in pieces.items()]
            self._check_size(sum(piece.nbytes for piece in found))
            table, _ = _shuffled(pa.concat_tables([SELECTED_IMAGES.empty_table(), *found]), self.config.seed)
            if not table.num_rows:
                return Part(path=path, num_rows=0, num_bytes=0, digest="")
            return publish_part(folder, path, to_bytes(table, SELECTED_IMAGES), table.num_rows)

        num_threads = self.config.memory_bytes // (COPIES_HELD * max(mean_bytes, 1))
        yield from in_threads(write, range(self.num_parts), min(MAX_THREADS, max(1, num_threads)))

    def _selected(self, part: tuple[int, Array]) -> pa.Table:
        """The selected images of a part, as SELECTED_IMAGES."""
        index, rows = part
        stored = read_images(self.images, self.images.manifest.parts[index], STORED).take(pa.array(rows["row"]))
        known = {name: pa.array(np.ascontiguousarray(rows[name])) for name in SELECTED}
        columns = {name: stored[name] for name in STORED} | known
        return pa.table([columns[name] for name in SELECTED_IMAGES.names], schema=SELECTED_IMAGES)

    def _piece(self, name: str, start: int, stop: int) -> pa.Table:
        if start == stop:
            return SELECTED_IMAGES.empty_table()
        file = self.scratch / f"{name}.pieces"
        return pa.ipc.open_stream(file.fs.cat_file(file.path, start=int(start), end=int(stop))).read_all()

    def _part_of(self, key: Array) -> Array:
        """The new part int64 [N] of images with these keys uint64, ascending: equal shares of all keys."""
        return ((key >> np.uint64(32)) * np.uint64(self.num_parts) >> np.uint64(32)).astype(np.int64)

    def _check_size(self, num_bytes: int) -> None:
        if num_bytes > MOST_BYTES:
            raise ConfigurationError(
                f"images_per_part={self.config.images_per_part}: a part has {num_bytes:,} bytes, at most "
                f"{MOST_BYTES:,} fit; give {self.config.images_per_part * MOST_BYTES // (2 * num_bytes)}"
            )


def _shuffled(table: pa.Table, seed: int) -> tuple[pa.Table, Array]:
    """Images in the order of a seeded hash of their ids, and the hashes uint64 [N]."""
    image_id = numbers(table["image_id"], IMAGE_ID)
    key = seeded_hash(image_id, seed)
    order = np.lexsort((low_words(image_id), high_words(image_id), key))
    return table.take(pa.array(order)), key[order]
