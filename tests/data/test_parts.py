"""Parts are read with their digests checked, and decoded in the order they were written."""

from collections.abc import Callable, Sequence

import pyarrow as pa
import pytest
import torch

from noisystudent_core import stages
from noisystudent_core.config import IngestConfig, PrepareConfig
from noisystudent_core.data import parts
from noisystudent_core.data.images import decode_image
from noisystudent_core.data.ingest import image_id
from noisystudent_core.data.parts import decode, labelled_batches, read_images
from noisystudent_core.errors import CorruptArtifactError
from noisystudent_core.storage.manifest import Artifact

CONFIG = PrepareConfig(ingest=IngestConfig(num_classes=3, images_per_part=4), max_bad_fraction=0.2)
Picture = Callable[..., bytes]
Prepared = Callable[[Sequence[bytes]], Artifact]


@pytest.fixture
def prepared(memory_root: str, write_source: Callable[..., str]) -> Prepared:
    """`prepared(images)`: an `images` artifact of parts of four; labels go 0, 1, 2, 0, ..."""

    def write(images: Sequence[bytes]) -> Artifact:
        source = write_source(f"{memory_root}/source.parquet", images, [row % 3 for row in range(len(images))])
        stages.prepare(CONFIG, {"source": source}, memory_root, out=f"{memory_root}/images")
        return Artifact.open(f"{memory_root}/images")

    return write


def test_columns_of_a_part_are_read(prepared: Prepared, picture: Picture) -> None:
    images = [picture(n) for n in range(6)]
    artifact = prepared(images)
    table = read_images(artifact, artifact.manifest.parts[1], ["image_id"])
    assert table.to_pydict() == {"image_id": [image_id(data) for data in images[4:]]}


def test_changed_part_is_found_as_it_is_read(prepared: Prepared, picture: Picture) -> None:
    artifact = prepared([picture(n) for n in range(6)])
    part = artifact.manifest.parts[1]
    artifact.folder.fs.pipe_file(f"{artifact.folder.path}/{part.path}", bytes(part.num_bytes))
    with pytest.raises(CorruptArtifactError, match=r"part .* has digest"):
        list(labelled_batches(artifact.url, 32, 1.0, 4))


def test_decoded_rows_keep_their_order(prepared: Prepared, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "DECODE_ROWS", 3)
    images = [picture(n) for n in range(4)]
    artifact = prepared(images)
    decoded, reasons = decode(read_images(artifact, artifact.manifest.parts[0], ["image", "reason"]), 32, 1.0)
    assert torch.equal(decoded, torch.stack([decode_image(data) for data in images]))
    assert reasons == [None] * 4


def test_part_without_rows_decodes_to_nothing(prepared: Prepared, picture: Picture) -> None:
    artifact = prepared([picture(n) for n in range(3)])
    table = read_images(artifact, artifact.manifest.parts[0], ["image", "reason"]).slice(0, 0)
    images, reasons = decode(table, 16, 1.0)
    assert (images.shape, reasons) == ((0, 3, 16, 16), [])


def test_labelled_batches_hold_every_good_image_once(prepared: Prepared, picture: Picture) -> None:
    images = [picture(n) for n in range(9)]
    artifact = prepared([*images[:5], b"no image", *images[6:]])
    batches = list(labelled_batches(artifact.url, 32, 1.0, batch_size=3))
    assert [len(labels) for _, labels in batches] == [3, 1, 3, 1]  # a batch never crosses parts
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 1, 2, 0, 1, 0, 1, 2]
    expected = torch.stack([decode_image(data) for n, data in enumerate(images) if n != 5])
    assert torch.equal(torch.cat([pixels for pixels, _ in batches]), expected)


def test_batches_have_the_size_that_is_asked_for(prepared: Prepared, picture: Picture) -> None:
    artifact = prepared([picture(n, size_px=20 + n) for n in range(4)])
    images, labels = next(labelled_batches(artifact.url, 24, 0.875, batch_size=8))
    assert (images.shape, images.dtype, labels.dtype) == ((4, 3, 24, 24), torch.uint8, torch.int64)


def test_what_was_refused_when_taken_in_is_not_decoded_again(picture: Picture) -> None:
    table = pa.table({"image": [picture(1), picture(2)], "reason": pa.array([None, "too_many_pixels"], pa.string())})
    decoded, reasons = decode(table, 32, 1.0)
    assert reasons == [None, "too_many_pixels"]
    assert decoded[0].any() and not decoded[1].any()
