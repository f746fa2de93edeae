"""Small sets in memory: each selected image stands beside its own teacher's distribution, or nothing is loaded."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pytest
import torch

from noisystudent_core import stages
from noisystudent_core.config import IngestConfig, PredictConfig, PrepareConfig
from noisystudent_core.data import resident
from noisystudent_core.data.encoded import LabelledParts, SelectedParts
from noisystudent_core.data.images import centre_crop_resize, decode_image
from noisystudent_core.data.parts import read_images
from noisystudent_core.data.resident import (
    load,
)
from noisystudent_core.data.schemas import PREDICTIONS, distributions, to_bytes
from noisystudent_core.errors import ConfigurationError, CorruptArtifactError
from noisystudent_core.pseudo_labels.select import select
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import Artifact, publish_manifest, publish_part
from tests.selections import read_selection, rows_of_part
from tests.training.small import PseudoLabelledImages

CPU = torch.device("cpu")
NUM_IMAGES, PER_PART, NUM_CLASSES = 10, 4, 3
Picture = Callable[..., bytes]
WriteSource = Callable[..., str]


def confidence(row: int) -> float:
    """Exact in float16, and above the threshold of 0.5 in the even rows only."""
    return 0.75 + row / 64 if row % 2 == 0 else 0.25


class World:
    """Ten unlabelled images in three parts, a selector's predictions, and the selection of the even ones."""

    def __init__(self, root: str, images: Sequence[bytes], write_source: WriteSource) -> None:
        self.root = root
        source = write_source(f"{root}/source.parquet", images)
        self.images = f"{root}/images"
        config = PrepareConfig(ingest=IngestConfig(images_per_part=PER_PART))
        stages.prepare(config, {"source": source}, root, out=self.images)
        parts = Artifact.open(self.images).manifest.parts
        self.predictions = self.predict("selector", {i: range(part.num_rows) for i, part in enumerate(parts)})
        self.selection = self.select("selection", threshold=0.5)

    def select(self, name: str, threshold: float) -> str:
        """The rows above `threshold`, a class filled up to six images."""
        url = f"{self.root}/{name}"
        select(self.predictions, self.images, url, threshold=threshold, num_images_per_class=6, seed=0)
        return url

    def predict(self, name: str, rows: Mapping[int, Sequence[int]], num_classes: int | None = None) -> str:
        """Predictions for these rows of these parts; with distributions where `num_classes` is given."""
        folder, artifact, parts = Folder.at(f"{self.root}/{name}"), Artifact.open(self.images), []
        for index, chosen in rows.items():
            table = read_images(artifact, artifact.manifest.parts[index], ["image_id"])
            numbers = [index * PER_PART + row for row in chosen]
            columns: dict[str, Any] = {
                "image_id": table["image_id"].take(list(chosen)),
                "label": [number % 2 for number in numbers],
                "confidence": [confidence(number) for number in numbers],
                "reason": [None] * len(numbers),
            }
            schema = PREDICTIONS
            if num_classes is not None:
                schema = distributions(num_classes)
                columns["probabilities"] = [
                    [confidence(number), 1 - confidence(number), *[0.0] * (num_classes - 2)] for number in numbers
                ]
            data = to_bytes(pa.table(columns), schema)
            parts.append(publish_part(folder, f"{index}.parquet", data, len(numbers)))
        facts = {"image_parts": list(rows), "num_classes": num_classes}
        publish_manifest(folder.url, PredictConfig(), {}, tuple(parts), facts=facts)
        return folder.url

    def load(self, predictions: str) -> PseudoLabelledImages:
        source = SelectedParts(self.images, self.selection, predictions)
        return PseudoLabelledImages(*load(source, 32, CPU), source.copies, source.part_sizes)


EVEN = {0: [0, 2], 1: [0, 2], 2: [0]}  # part -> the rows that are selected


@pytest.fixture
def pictures(picture: Picture) -> list[bytes]:
    return [picture(number) for number in range(NUM_IMAGES)]


@pytest.fixture
def world(memory_root: str, pictures: list[bytes], write_source: WriteSource) -> World:
    return World(memory_root, pictures, write_source)


def test_selection_knows_where_its_images_lie(world: World) -> None:
    selection = read_selection(world.selection)
    assert {part: rows_of_part(selection, part)["row"].to_pylist() for part in range(3)} == EVEN


def test_image_stands_beside_its_own_distribution(world: World, pictures: list[bytes]) -> None:
    loaded = world.load(world.predict("teacher", EVEN, NUM_CLASSES))
    even = range(0, NUM_IMAGES, 2)
    assert torch.equal(loaded.images, torch.stack([decode_image(pictures[number]) for number in even]))
    assert loaded.probabilities.tolist() == [[confidence(n), 1 - confidence(n), 0] for n in even]
    assert loaded.probabilities.dtype == torch.float32


def test_copies_fill_the_class(world: World) -> None:
    copies = world.load(world.predict("teacher", EVEN, NUM_CLASSES)).copies
    assert (copies.sum(), copies.min(), copies.max(), copies.dtype) == (6, 1, 2, torch.int32)


@pytest.mark.parametrize(
    "rows",
    [
        {0: [0, 1], 1: [0, 2], 2: [0]},  # another image
        {0: [2, 0], 1: [0, 2], 2: [0]},  # another order
        {0: [0], 1: [0, 2], 2: [0]},  # too few
        {0: [0, 1, 2, 3], 1: [0, 1, 2, 3], 2: [0, 1]},  # all, not the selected ones
        {0: [0, 2], 1: [0, 2]},  # a part is left out
    ],
)
def test_predictions_of_other_rows_are_refused(world: World, rows: dict[int, list[int]]) -> None:
    teacher = world.predict("teacher", rows, NUM_CLASSES)
    with pytest.raises(CorruptArtifactError, match=f"{teacher}.*its images are not those of {world.selection}"):
        world.load(teacher)


def test_changed_predictions_are_found(world: World) -> None:
    teacher = world.predict("teacher", EVEN, NUM_CLASSES)
    folder = Folder.at(teacher)
    size = folder.sizes()["1.parquet"]
    folder.fs.pipe_file(f"{folder.path}/1.parquet", bytes(size))
    with pytest.raises(CorruptArtifactError, match=r"part 1\.parquet has digest"):
        world.load(teacher)


def test_labelled_images_stand_beside_their_labels(
    memory_root: str, pictures: list[bytes], write_source: WriteSource
) -> None:
    labels = [number % 3 for number in range(NUM_IMAGES)]
    source = write_source(f"{memory_root}/source.parquet", pictures, labels)
    config = PrepareConfig(ingest=IngestConfig(num_classes=3, images_per_part=4))
    stages.prepare(config, {"source": source}, memory_root, out=f"{memory_root}/images")
    source = LabelledParts(f"{memory_root}/images")
    loaded, found = load(source, 32, CPU)
    assert found.tolist() == labels
    assert torch.equal(loaded, torch.stack([decode_image(data) for data in pictures]))
    middle, _ = load(source, 32, CPU, crop_fraction=0.8)
    cropped = [centre_crop_resize(decode_image(data), 32, 0.8) for data in pictures]
    assert torch.equal(middle, torch.stack(cropped))


def test_set_that_does_not_fit_is_refused_before_it_is_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = 5 * 3 * 32 * 32
    teacher = world.predict("teacher", EVEN, NUM_CLASSES)
    monkeypatch.setattr(resident, "_free_memory", lambda device: needed * 1.26)  # a fifth stays free
    world.load(teacher)
    monkeypatch.setattr(resident, "_free_memory", lambda device: needed * 1.24)
    monkeypatch.setattr(resident, "decode_batch", pytest.fail)
    with pytest.raises(ConfigurationError, match=r"5 images of 32 px need .* are free; set execution\.data=streaming"):
        world.load(teacher)


def test_free_memory_is_told_in_bytes() -> None:
    assert 2**26 < resident._free_memory(CPU) < 2**46
