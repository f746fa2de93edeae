"""Stored images are read by part and place, whatever the chunks, and damage is never read past."""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from noisystudent_core.data.encoded import _pick
from noisystudent_core.data.schemas import IMAGES, to_bytes
from noisystudent_core.errors import CorruptArtifactError
from noisystudent_core.storage.manifest import Artifact
from tests.data.stored import COPIES, DAMAGED, PER_PART, Stored, confidence, store

Picture = Callable[..., bytes]
DAMAGED_PART = DAMAGED // PER_PART


@pytest.fixture
def stored(memory_root: str, picture: Picture, write_source: Callable[..., str]) -> Stored:
    return store(memory_root, picture, write_source)


def path_of(url: str, part: int) -> tuple[Artifact, str]:
    artifact = Artifact.open(url)
    return artifact, (artifact.folder / artifact.manifest.parts[part].path).path


def test_damaged_images_do_not_count(stored: Stored, picture: Picture) -> None:
    source = stored.labelled_parts()
    assert source.part_sizes == [4, 4, 3, 4, 4, 3]
    images, labels = source.read(DAMAGED_PART, torch.tensor([0, 2]))
    assert images == [picture(8, 2), picture(11, 2)]  # 9 is none
    assert labels.tolist() == [2, 2]


def test_selected_images_are_counted_in_the_order_of_parts_and_rows(stored: Stored, picture: Picture) -> None:
    source = stored.selected_parts()
    assert source.copies.tolist() == list(COPIES.values())
    assert source.part_sizes == [2, 3, 2, 3, 3, 2, 3, 3, 2]  # of part 2 none is selected
    images, probabilities = source.read(3, torch.tensor([0, 2]))  # of 16, 17, 19
    assert images == [picture(116, kind="PNG"), picture(119, kind="JPEG")]
    assert probabilities.tolist() == [[confidence(number), 1 - confidence(number), 0] for number in (16, 19)]


@pytest.mark.parametrize("damage", ["missing", "no Parquet"])
def test_part_that_is_damaged_before_the_first_read_is_an_error(stored: Stored, damage: str) -> None:
    artifact, path = path_of(stored.labelled, DAMAGED_PART)
    if damage == "missing":
        artifact.folder.fs.rm_file(path)
    else:
        artifact.folder.fs.pipe_file(path, b"PAR1")
    with pytest.raises(CorruptArtifactError, match=r"labelled: part .* (is missing|has digest)"):
        stored.labelled_parts()


def test_part_that_changes_between_its_reads_is_an_error(stored: Stored) -> None:
    artifact, path = path_of(stored.labelled, DAMAGED_PART)
    whole = artifact.folder.fs.cat_file(path)
    table = pq.read_table(pa.BufferReader(whole))
    none_bad = table.set_column(table.schema.get_field_index("reason"), "reason", pa.nulls(PER_PART, pa.string()))
    artifact.folder.fs.pipe_file(path, to_bytes(none_bad, IMAGES))
    source = stored.labelled_parts()
    artifact.folder.fs.pipe_file(path, whole)
    with pytest.raises(CorruptArtifactError, match="3 images can be decoded, not 4; delete the artifact"):
        source.read(DAMAGED_PART, torch.tensor([0]))


def test_rows_are_picked_across_chunks() -> None:
    column = pa.chunked_array([pa.array([b"0", b"1"]), pa.array([], pa.binary()), pa.array([b"2"]), pa.array([b"3"])])
    assert _pick(column, [0, 2, 3]) == [b"0", b"2", b"3"]
    assert _pick(column, [1, 1, 3]) == [b"1", b"1", b"3"]
    assert _pick(column, []) == []
