"""Parts that refer to images give the same rows as parts that hold them, until the source changes."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from noisystudent_core import stages
from noisystudent_core.config import IngestConfig, PrepareConfig
from noisystudent_core.data import references
from noisystudent_core.data.encoded import LabelledParts
from noisystudent_core.data.parts import labelled_batches, read_images
from noisystudent_core.data.references import REFERENCES
from noisystudent_core.data.schemas import IMAGES
from noisystudent_core.errors import ConfigurationError, CorruptArtifactError
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import Artifact
from noisystudent_core.storage.s3 import S3
from tests.data import written
from tests.data.written import Given

NAMES = ("ant", "bee", "cat")
SOURCES = {
    "tars": written.write_tars,
    "parquet": written.write_hugging_face,
    "png column": written.write_png_column,
}


@pytest.fixture
def given(picture: Callable[..., bytes]) -> list[Given]:
    return [Given(f"{number:03d}", picture(number), number % 3) for number in range(12)]


def take(source: str, out: Path, *, index_only: bool, images_per_part: int = 5) -> str:
    ingest = IngestConfig(num_classes=3, index_only=index_only, images_per_part=images_per_part)
    config = PrepareConfig(ingest=ingest.model_copy(update={"class_names": NAMES}), shuffle=True)
    stages.prepare(config, {"source": source}, "", out=str(out))
    return str(out)


def rows(url: str) -> list[dict[str, object]]:
    artifact = Artifact.open(url)
    return [row for part in artifact.manifest.parts for row in read_images(artifact, part, IMAGES.names).to_pylist()]


@pytest.mark.parametrize("kind", SOURCES)
def test_references_read_as_the_images_do(kind: str, tmp_path: Path, given: list[Given]) -> None:
    source = SOURCES[kind](tmp_path / "source", given, NAMES)
    copies, references = (take(source, tmp_path / str(flag), index_only=flag) for flag in (False, True))
    assert rows(references) == rows(copies)
    part = Path(references, Artifact.open(references).manifest.parts[0].path)
    assert pq.read_schema(part).names == REFERENCES.names
    for one, other in zip(*(labelled_batches(url, 16, 1.0, 4) for url in (copies, references)), strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    found = [LabelledParts(url).read(0, torch.tensor([0, 2])) for url in (copies, references)]
    assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1])


def test_references_into_a_bucket(s3_root: str, tmp_path: Path, given: list[Given]) -> None:
    written.write_tars(tmp_path / "source", given, NAMES)
    for path in (tmp_path / "source").iterdir():
        Folder.at(s3_root).publish(path.name, path.read_bytes())
    copies, references = (take(s3_root, tmp_path / str(flag), index_only=flag) for flag in (False, True))
    assert rows(references) == rows(copies)


def test_neighbours_in_a_bucket_come_in_one_request(
    s3_root: str, tmp_path: Path, given: list[Given], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = (image.data for image in given[:3])
    far = {"a.png": one, "b.png": b"", "b.txt": bytes(100_000), "c.png": two, "d.png": three}
    Folder.at(s3_root).publish("a.tar", written.tar(tmp_path / "a.tar", far).read_bytes())
    config = PrepareConfig(ingest=IngestConfig(index_only=True), max_bad_fraction=1.0, shuffle=True)
    stages.prepare(config, {"source": s3_root}, "", out=str(tmp_path / "out"))
    asked: list[int] = []
    cat_file = S3._cat_file

    async def counted(self: S3, path: str, *, start: int | None = None, **more: Any) -> bytes:
        if start is not None:
            asked.append(start)
        return await cat_file(self, path, start=start, **more)

    monkeypatch.setattr(S3, "_cat_file", counted)
    images = {str(row["source"]): row["image"] for row in rows(str(tmp_path / "out"))}
    assert images == {f"a.tar:{name}": data for name, data in far.items() if name.endswith(".png")}
    assert len(asked) == 2
    monkeypatch.setattr(references, "MAX_REQUEST", 500)
    assert {str(row["source"]): row["image"] for row in rows(str(tmp_path / "out"))} == images
    assert len(asked) == 2 + 3


def test_members_that_are_no_image_stay_bad(tmp_path: Path, given: list[Given]) -> None:
    members = {"1.png": given[0].data, "2.txt": b"alone", "3.png": b"words"}
    source = str(written.tar(tmp_path / "a.tar", members))
    config = PrepareConfig(ingest=IngestConfig(index_only=True), max_bad_fraction=1.0)
    out = str(tmp_path / "out")
    assert stages.prepare(config, {"source": source}, "", out=out).drops == {"no_image": 1, "not_an_image": 1}
    assert [row["image"] for row in rows(out)] == [given[0].data, b"", b"words"]


@pytest.mark.parametrize("kind", ["tars", "parquet"])
def test_source_that_changed_is_named(kind: str, tmp_path: Path, given: list[Given]) -> None:
    url = take(SOURCES[kind](tmp_path / "source", given, NAMES), tmp_path / "out", index_only=True)
    file = sorted((tmp_path / "source").iterdir())[0]
    whole, times = file.read_bytes(), (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    file.write_bytes(whole + bytes(512))
    with pytest.raises(CorruptArtifactError, match=f"{file.name}: changed since it was indexed .*prepare the source"):
        rows(url)
    file.write_bytes(whole)
    os.utime(file, ns=times)
    assert len(rows(url)) == 12
    file.unlink()
    with pytest.raises(CorruptArtifactError, match=f"{file.name}: is gone since it was indexed"):
        rows(url)


def test_bytes_that_changed_behind_the_same_stamp_are_found(tmp_path: Path, given: list[Given]) -> None:
    url = take(written.write_tars(tmp_path / "source", given, NAMES), tmp_path / "out", index_only=True)
    file = tmp_path / "source" / "000.tar"
    times, data = (file.stat().st_atime_ns, file.stat().st_mtime_ns), bytearray(file.read_bytes())
    data[600] ^= 1  # inside the first image
    file.write_bytes(data)
    os.utime(file, ns=times)
    with pytest.raises(CorruptArtifactError, match=r"000\.tar: changed since it was indexed: the image of row"):
        rows(url)


@pytest.mark.parametrize("write", [written.write_folders, written.write_csv, written.write_named_tars])
def test_other_sources_cannot_be_referred_to(write: written.Write, tmp_path: Path, given: list[Given]) -> None:
    with pytest.raises(ConfigurationError, match=r"index_only=True: .* is neither Parquet with images nor"):
        take(write(tmp_path / "source", given, NAMES), tmp_path / "out", index_only=True)


def test_references_are_not_shrunk() -> None:
    with pytest.raises(ValueError, match="index_only=True and shorter_side_px=64: what is referred to is not shrunk"):
        PrepareConfig(ingest=IngestConfig(index_only=True, shorter_side_px=64))
