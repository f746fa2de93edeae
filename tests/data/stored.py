"""Artifacts as a fit reads them: labelled images, one of them damaged, and a selection with copies and its teacher."""

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import torch

from noisystudent_core import stages
from noisystudent_core.config import IngestConfig, PredictConfig, PrepareConfig, SelectConfig
from noisystudent_core.data.encoded import LabelledParts, SelectedParts
from noisystudent_core.data.parts import read_images
from noisystudent_core.data.schemas import SELECTION, distributions, to_bytes
from noisystudent_core.storage.cache import ReadPart
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import Artifact, publish_manifest, publish_part

NUM_LABELLED, NUM_UNLABELLED, PER_PART, NUM_CLASSES = 23, 40, 4, 3
DAMAGED = 9  # number of the labelled image that is none
# of the unlabelled images, those that are selected: none of part 2
COPIES = {number: 1 + number % 4 for number in range(NUM_UNLABELLED) if number % 3 and number // PER_PART != 2}

Picture = Callable[..., bytes]
WriteSource = Callable[..., str]


def confidence(number: int) -> float:
    """Of an unlabelled image; exact in float16, and another for each."""
    return 0.5 + number / 128


@dataclass(frozen=True)
class Stored:
    """Addresses under one root."""

    labelled: str
    unlabelled: str
    selection: str
    predictions: str

    def labelled_parts(self, read: ReadPart = Artifact.read) -> LabelledParts:
        return LabelledParts(self.labelled, read)

    def selected_parts(self, read: ReadPart = Artifact.read) -> SelectedParts:
        return SelectedParts(self.unlabelled, self.selection, self.predictions, read)


def store(root: str, picture: Picture, write_source: WriteSource) -> Stored:
    """Write everything under `root`."""
    labels = [number % NUM_CLASSES for number in range(NUM_LABELLED)]
    images = [picture(number, label) for number, label in enumerate(labels)]
    images[DAMAGED] = b"no image"
    labelled = _prepare(root, "labelled", write_source(f"{root}/labelled.parquet", images, labels), NUM_CLASSES)
    images = [picture(100 + number, kind=("PNG", "JPEG")[number % 2]) for number in range(NUM_UNLABELLED)]
    unlabelled = _prepare(root, "unlabelled", write_source(f"{root}/unlabelled.parquet", images), None)
    return Stored(labelled, unlabelled, _select(root, unlabelled), _predict(root, unlabelled))


def _prepare(root: str, name: str, source: str, num_classes: int | None) -> str:
    ingest = IngestConfig(num_classes=num_classes, images_per_part=PER_PART)
    config = PrepareConfig(ingest=ingest, max_bad_fraction=0.1)
    stages.prepare(config, {"source": source}, root, out=f"{root}/{name}")
    return f"{root}/{name}"


def _ids(images: str) -> list[bytes]:
    artifact = Artifact.open(images)
    tables = [read_images(artifact, part, ["image_id"]) for part in artifact.manifest.parts]
    return pa.concat_tables(tables)["image_id"].to_pylist()


def _select(root: str, images: str) -> str:
    """In image id order, as a selection is, and so in none of part and row."""
    ids, numbers = _ids(images), sorted(COPIES, key=_ids(images).__getitem__)
    table = pa.table(
        {
            "image_id": [ids[number] for number in numbers],
            "label": [0] * len(numbers),
            "confidence": [confidence(number) for number in numbers],
            "copies": [COPIES[number] for number in numbers],
            "part": [number // PER_PART for number in numbers],
            "row": [number % PER_PART for number in numbers],
        }
    )
    folder = Folder.at(f"{root}/selection")
    part = publish_part(folder, "part.parquet", to_bytes(table, SELECTION), table.num_rows)
    publish_manifest(folder.url, SelectConfig(), {}, (part,))
    return folder.url


def _predict(root: str, images: str) -> str:
    """The distribution of image `number` is (confidence, 1 - confidence, 0)."""
    ids, folder, parts = _ids(images), Folder.at(f"{root}/predictions"), []
    indices = sorted({number // PER_PART for number in COPIES})
    for index in indices:
        numbers = [number for number in COPIES if number // PER_PART == index]
        table = pa.table(
            {
                "image_id": [ids[number] for number in numbers],
                "label": [0] * len(numbers),
                "confidence": [confidence(number) for number in numbers],
                "reason": pa.nulls(len(numbers), pa.string()),
                "probabilities": [[confidence(number), 1 - confidence(number), 0.0] for number in numbers],
            }
        )
        data = to_bytes(table, distributions(NUM_CLASSES))
        parts.append(publish_part(folder, f"{index}.parquet", data, len(numbers)))
    facts = {"image_parts": indices, "num_classes": NUM_CLASSES}
    publish_manifest(folder.url, PredictConfig(), {}, tuple(parts), facts=facts)
    return folder.url


def numbers_of(probabilities: torch.Tensor) -> list[int]:
    """Which unlabelled images these distributions [N, C] belong to."""
    return ((probabilities[:, 0] - 0.5) * 128).round().int().tolist()
