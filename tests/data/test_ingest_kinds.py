"""Every kind of source gives the same images and labels, however it is cut, and in whatever order it is named."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from noisystudent_core import stages
from noisystudent_core.config import PrepareConfig
from noisystudent_core.data.images import decode_image
from noisystudent_core.data.ingest import image_id
from noisystudent_core.data.schemas import IMAGES, from_bytes
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import Artifact
from tests.data import written
from tests.data.prepared import Prepared
from tests.data.written import KINDS, NAMED, Given

NAMES = ("ant", "bee", "cat")
Picture = Callable[..., bytes]


@pytest.fixture
def given(picture: Picture) -> list[Given]:
    """Twelve images, one of them a JPEG whatever its name says."""
    kinds = ["PNG"] * 11 + ["JPEG"]
    return [Given(f"{number:03d}", picture(number, kind=kind), number % 3) for number, kind in enumerate(kinds)]


@pytest.mark.parametrize("kind", KINDS)
def test_images_and_labels_come_through(kind: str, tmp_path: Path, prepared: Prepared, given: list[Given]) -> None:
    source = KINDS[kind](tmp_path / "source", given, NAMES)
    manifest = prepared(source, named=kind in NAMED)
    assert prepared.images() == sorted((image.data, image.label) for image in given)
    assert manifest.facts.get("class_names") == (list(NAMES) if kind in NAMED else None)
    assert manifest.facts["class_counts"] == {"0": 4, "1": 4, "2": 4}
    assert all(row["image_id"] == image_id(row["image"]) and row["reason"] is None for row in prepared.rows())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", [{"images_per_part": 1}, {"images_per_part": 5}, {"bytes_per_part": 7_000}])
def test_rows_do_not_depend_on_the_size_of_parts(
    kind: str, limit: dict[str, int], tmp_path: Path, prepared: Prepared, given: list[Given]
) -> None:
    source = KINDS[kind](tmp_path / "source", given, NAMES)
    prepared(source, named=kind in NAMED)
    whole = prepared.rows()
    manifest = prepared(source, named=kind in NAMED, **limit)
    assert prepared.rows() == whole
    assert len(manifest.parts) > 2 and max(part.num_rows for part in manifest.parts) <= limit.get("images_per_part", 4)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_left_out_where_none_are_wanted(kind: str, tmp_path: Path, given: list[Given]) -> None:
    source = KINDS[kind](tmp_path / "source", given, NAMES)
    manifest = stages.prepare(PrepareConfig(), {"source": source}, str(tmp_path), out=str(tmp_path / "out"))
    artifact = Artifact.open(str(tmp_path / "out"))
    tables = [from_bytes(artifact.read(part), IMAGES, part.path) for part in manifest.parts]
    assert manifest.num_rows == 12 and pa.concat_tables(tables)["label"].null_count == 12


def test_order_of_addresses_does_not_matter(tmp_path: Path, prepared: Prepared, given: list[Given]) -> None:
    first = written.write_hugging_face(tmp_path / "a", given[:6], NAMES)
    second = written.write_named_tars(tmp_path / "b", given[6:], NAMES)
    digests = {prepared(f"{one}\n{other}").content_digest for one, other in ((first, second), (second, first))}
    assert len(digests) == 1
    assert prepared.images() == sorted((image.data, image.label) for image in given)
    braces = f"{tmp_path}/a/train-{{1,0}}.parquet"
    assert prepared(braces).content_digest == prepared(f"{tmp_path}/a/train-*.parquet").content_digest


@pytest.mark.parametrize("kind", KINDS)
def test_labels_follow_the_names_that_are_given(
    kind: str, tmp_path: Path, prepared: Prepared, given: list[Given]
) -> None:
    if kind not in NAMED:
        return
    source = KINDS[kind](tmp_path / "source", given, NAMES)
    prepared(source, class_names=("cat", "ant", "bee"))
    assert prepared.images() == sorted((image.data, (image.label + 1) % 3) for image in given)


def test_a_folder_is_taken_in_anew_by_itself(tmp_path: Path, given: list[Given]) -> None:
    source = written.write_folders(tmp_path / "source", given, NAMES)
    root = str(tmp_path / "root")
    before = stages.prepare(PrepareConfig(read_labels=True), {"source": source}, root)
    (tmp_path / "source" / "cat" / "new.png").write_bytes(given[0].data[:50])
    after = stages.prepare(PrepareConfig(read_labels=True, max_bad_fraction=0.5), {"source": source}, root)
    assert len(before.parts) == len(after.parts) == 3 and len(set(before.parts) & set(after.parts)) == 2


def test_folders_in_a_bucket(s3_root: str, tmp_path: Path, prepared: Prepared, given: list[Given]) -> None:
    written.write_folders(tmp_path / "source", given, NAMES)
    for path in (tmp_path / "source").rglob("*.png"):
        Folder.at(s3_root).publish(str(path.relative_to(tmp_path / "source")), path.read_bytes())
    prepared(str(tmp_path / "source"))
    here = prepared.rows()
    prepared(s3_root)
    assert prepared.rows() == here


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("where", ["bucket", "web"])
@pytest.mark.parametrize("images_per_part", [5, 100])
def test_manifest_leads_elsewhere(
    ending: str,
    where: str,
    images_per_part: int,
    s3_root: str,
    web: str,
    tmp_path: Path,
    prepared: Prepared,
    given: list[Given],
) -> None:
    away = {"bucket": s3_root, "web": f"{web}/given"}[where]
    for image in given:
        Folder.at(s3_root if where == "bucket" else str(tmp_path / "web" / "given")).publish(image.name, image.data)
    uris, labels = [f"{away}/{image.name}" for image in given], [NAMES[image.label] for image in given]
    table = tmp_path / f"a.{ending}"
    if ending == "csv":
        table.write_text("label,image\n" + "".join(f"{label},{uri}\n" for uri, label in zip(uris, labels, strict=True)))
    else:
        pq.write_table(pa.table({"uri": uris, "label": labels}), table)
    prepared(str(table), images_per_part=images_per_part)
    assert prepared.images() == sorted((image.data, image.label) for image in given)
    assert [row["source"] for row in prepared.rows()] == uris


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("images_per_part", [4, 100])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_idx_keeps_every_pixel(
    ending: str, images_per_part: int, shape: tuple[int, ...], tmp_path: Path, prepared: Prepared
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, *shape), dtype=np.uint8)
    source = written.write_idx(tmp_path / "source", pixels, [row % 3 for row in range(9)], ending)
    assert prepared(source, named=False, images_per_part=images_per_part).num_rows == 9
    for row, expected in zip(prepared.rows(), pixels, strict=True):
        found = decode_image(row["image"]).permute(1, 2, 0).numpy()
        assert (found == (expected if expected.ndim == 3 else expected[..., None])).all()
    assert [row["label"] for row in prepared.rows()] == [0, 1, 2] * 3


def test_changed_idx_labels_are_read_anew(tmp_path: Path, prepared: Prepared) -> None:
    pixels = np.zeros((3, 4, 4), np.uint8) + np.arange(3, dtype=np.uint8)[:, None, None]
    source = written.write_idx(tmp_path / "source", pixels, [0, 1, 2])
    before = prepared(source, named=False).key
    written.write_idx(tmp_path / "source", pixels, [0, 2, 1])
    assert prepared(source, named=False).key != before
    assert [row["label"] for row in prepared.rows()] == [0, 2, 1]


def test_prepared_artifact_is_a_source(tmp_path: Path, prepared: Prepared, picture: Picture) -> None:
    large = [Given(str(number), picture(number, size_px=40), number % 3) for number in range(6)]
    prepared(written.write_folders(tmp_path / "source", large, NAMES), shorter_side_px=16)
    rows = prepared.rows()
    manifest = prepared(prepared.out)
    assert prepared.rows() == rows and manifest.facts["class_names"] == list(NAMES)
    assert {row["image_id"] for row in rows} == {image_id(image.data) for image in large}


def test_larger_images_are_shrunk_and_keep_their_ids(tmp_path: Path, prepared: Prepared, picture: Picture) -> None:
    wide = tmp_path / "source" / "ant" / "wide.png"
    wide.parent.mkdir(parents=True)
    Image.new("RGB", (90, 45), (9, 9, 9)).save(wide)
    for name, data in {"bee": picture(1, kind="JPEG", size_px=64), "cat": picture(2, size_px=16)}.items():
        (tmp_path / "source" / name).mkdir()
        (tmp_path / "source" / name / "0.jpg").write_bytes(data)
    prepared(str(tmp_path / "source"), shorter_side_px=20)
    rows = prepared.rows()
    assert [(row["height"], row["width"]) for row in rows] == [(20, 40), (20, 20), (16, 16)]
    assert [tuple(decode_image(row["image"]).shape[1:]) for row in rows] == [(20, 40), (20, 20), (16, 16)]
    assert rows[0]["image_id"] == image_id(wide.read_bytes()) != image_id(rows[0]["image"])
    assert rows[1]["image"].startswith(b"\xff\xd8") and rows[2]["image"] == picture(2, size_px=16)


def test_parquet_of_numbers_without_names_asks_for_their_number(tmp_path: Path, prepared: Prepared) -> None:
    pq.write_table(pa.table({"image": [b"1"], "label": [0]}), tmp_path / "a.parquet")
    with pytest.raises(
        ValueError, match="no label in it is a name; if they are numbers, say how many classes: num_classes"
    ):
        prepared(str(tmp_path / "a.parquet"))
