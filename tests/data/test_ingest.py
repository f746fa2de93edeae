"""Rows of a source file become rows of the `images` schema: none is lost, and a bad one says why."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from noisystudent_core.config import IngestConfig
from noisystudent_core.data.ingest import image_id, ingest_file
from noisystudent_core.data.schemas import IMAGES
from noisystudent_core.errors import LabelError, SchemaError, SourceError
from noisystudent_core.storage.sources import SourceFile, list_source

LABELLED, UNLABELLED = IngestConfig(num_classes=3), IngestConfig()
Picture = Callable[..., bytes]
FileOf = Callable[..., SourceFile]


@pytest.fixture
def file_of(write_source: Callable[..., str], tmp_path: Path) -> FileOf:
    """`file_of(images, labels, **options)`: a source file `a.parquet` of them."""

    def write(images: Sequence[bytes | None], labels: Any = None, **options: Any) -> SourceFile:
        return list_source(write_source(str(tmp_path / "a.parquet"), images, labels, **options))[0]

    return write


def rows(file: SourceFile, config: IngestConfig = UNLABELLED) -> list[dict[str, Any]]:
    return pa.concat_tables(ingest_file(file, config)).to_pylist()


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_row_holds_the_sources_bytes_and_what_they_are(file_of: FileOf, picture: Picture) -> None:
    data = picture(1, size_px=20)
    row = rows(file_of([data], [2], names=["train/1.png"]), LABELLED)[0]
    expected = {"image_id": image_id(data), "image": data, "label": 2, "source": "train/1.png"}
    assert row == expected | {"height": 20, "width": 20, "reason": None}


def test_struct_and_plain_binary_give_the_same_rows(file_of: FileOf, picture: Picture) -> None:
    images = [picture(1), picture(2)]
    in_struct = rows(file_of(images, [0, 1]), LABELLED)
    assert rows(file_of(images, [0, 1], in_struct=False), LABELLED) == in_struct
    assert [row["source"] for row in in_struct] == ["a.parquet:0", "a.parquet:1"]


def test_unlabelled_labels_are_not_read(file_of: FileOf, picture: Picture) -> None:
    assert [row["label"] for row in rows(file_of([picture(1)], [99]))] == [None]
    assert [row["label"] for row in rows(file_of([picture(1)], ["cat"]))] == [None]


@pytest.mark.parametrize("row_group_size", [1, 2, 3, 7, 50])
def test_row_groups_do_not_show(file_of: FileOf, picture: Picture, row_group_size: int) -> None:
    images, config = [picture(n) for n in range(10)], IngestConfig(images_per_part=4)
    parts = list(ingest_file(file_of(images, row_group_size=row_group_size), config))
    whole = list(ingest_file(file_of(images), config))
    assert [part.num_rows for part in parts] == [4, 4, 2]
    assert all(part.equals(other) for part, other in zip(parts, whole, strict=True))


@pytest.mark.parametrize(("num_rows", "sizes"), [(1, [1]), (4, [4]), (5, [4, 1]), (8, [4, 4])])
def test_parts_are_full_but_the_last(file_of: FileOf, picture: Picture, num_rows: int, sizes: list[int]) -> None:
    file = file_of([picture(n) for n in range(num_rows)])
    parts = list(ingest_file(file, IngestConfig(images_per_part=4)))
    assert [part.num_rows for part in parts] == sizes
    assert all(part.schema.equals(IMAGES) for part in parts)


RGB = np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8)
ROTATED = Image.Exif()
ROTATED[0x0112] = 6
KINDS = {
    "grey": encoded(Image.fromarray(RGB[..., 0]), "PNG"),
    "palette": encoded(Image.fromarray(RGB).quantize(8), "PNG"),
    "alpha": encoded(Image.fromarray(RGB).convert("RGBA"), "PNG"),
    "16-bit": encoded(Image.fromarray(RGB[..., 0].astype(np.uint16) * 257), "PNG"),
    "cmyk": encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG"),
    "webp": encoded(Image.fromarray(RGB), "WEBP"),
    "rotated": encoded(Image.fromarray(RGB.transpose(1, 0, 2).copy()), "JPEG", exif=ROTATED),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_is_kept(file_of: FileOf, kind: str) -> None:
    row = rows(file_of([KINDS[kind]]))[0]
    assert (row["reason"], row["height"], row["width"]) == (None, 24, 16)
    assert row["image"] == KINDS[kind]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: b"", "empty"),
        (lambda data: None, "empty"),
        (lambda data: data[: len(data) // 2], "truncated"),
        (lambda data: b"these are words", "not_an_image"),
    ],
)
def test_bad_image_is_kept_with_its_reason(file_of: FileOf, picture: Picture, damage: Any, reason: str) -> None:
    good, bad = rows(file_of([picture(1), damage(picture(2))], [0, 1]), LABELLED)
    assert (good["reason"], bad["reason"], bad["label"]) == (None, reason, 1)
    assert bad["height"] is None and bad["image"] == (damage(picture(2)) or b"")


def test_image_above_max_pixels_is_a_bad_one(file_of: FileOf, picture: Picture) -> None:
    file = file_of([picture(1, size_px=20), picture(2, size_px=21)])
    assert [row["reason"] for row in rows(file, IngestConfig(max_pixels=400))] == [None, "too_many_pixels"]


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint8(), pa.int32(), pa.int64()])
def test_integers_of_any_width_are_labels(file_of: FileOf, picture: Picture, kind: pa.DataType) -> None:
    file = file_of([picture(1), picture(2)], pa.array([0, 2], kind))
    assert [row["label"] for row in rows(file, LABELLED)] == [0, 2]


@pytest.mark.parametrize("labels", [[0.0, 1.0], [b"0", b"1"], [True, False]])
def test_label_column_of_another_type_is_refused(file_of: FileOf, picture: Picture, labels: list[Any]) -> None:
    with pytest.raises(LabelError, match=r"a\.parquet: labels are \w+; must be integers from 0, or names"):
        rows(file_of([picture(1), picture(2)], labels), LABELLED)


@pytest.mark.parametrize("label", [None, -1, 3, 2**40])
def test_wrong_label_is_named_with_file_and_row(file_of: FileOf, picture: Picture, label: int | None) -> None:
    labels = pa.array([0, 1, 2, 0, label], pa.int64())
    file = file_of([picture(n) for n in range(5)], labels, row_group_size=2)
    shown = "no label" if label is None else f"label {label}"
    with pytest.raises(LabelError, match=rf"a\.parquet: row 4 has {shown}; must be 0 to 2 \(num_classes=3\)"):
        rows(file, IngestConfig(num_classes=3, images_per_part=2))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"picture": [b"1"], "label": [0]}, "no column 'image'; it has picture, label"),
        ({"image": [b"1"], "class": [0]}, "no column 'label'; it has image, class"),
        ({"image": [1], "label": [0]}, "column 'image' is int64; must be binary or struct<bytes, path>"),
        ({"image": [{"path": "1.png"}], "label": [0]}, "must be binary or struct<bytes, path>"),
    ],
)
def test_wrong_columns_are_named(tmp_path: Path, table: dict[str, Any], words: str) -> None:
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    with pytest.raises(SchemaError) as caught:
        rows(list_source(str(tmp_path))[0], LABELLED)
    assert words in str(caught.value) and "a.parquet" in str(caught.value)


@pytest.mark.parametrize("data", [b"words", b"PAR1" + bytes(40) + b"PAR1", bytes(100)], ids=len)
def test_file_that_is_no_parquet_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(SourceError, match=r"a\.parquet: not a Parquet file"):
        rows(list_source(str(tmp_path))[0])


def test_parquet_damaged_inside_is_named(tmp_path: Path, file_of: FileOf, picture: Picture) -> None:
    file_of([picture(n) for n in range(20)])
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[4:200] = bytes(196)
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(SourceError, match=r"a\.parquet"):
        rows(list_source(str(tmp_path))[0])


def test_failing_disk_is_not_taken_for_a_damaged_file(file_of: FileOf, picture: Picture) -> None:
    file = file_of([picture(1)])
    Path(file.path).unlink()
    with pytest.raises(FileNotFoundError):
        rows(file)


def test_file_without_rows_gives_no_part(file_of: FileOf) -> None:
    assert list(ingest_file(file_of([], pa.array([], pa.int64())), LABELLED)) == []
