"""A source becomes image parts that later files never change; what is dropped is counted, what is wrong is named."""

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from noisystudent_core import stages
from noisystudent_core.config import IngestConfig, PrepareConfig
from noisystudent_core.data.ingest import ingest_file
from noisystudent_core.data.schemas import IMAGES, from_bytes
from noisystudent_core.errors import BadImagesError, LabelError, SourceError
from noisystudent_core.storage.manifest import Artifact, Manifest, artifact_url, input_digests
from noisystudent_core.storage.sources import SourceFile

Picture = Callable[..., bytes]
WriteSource = Callable[..., str]


class Rooms:
    """A folder source of Parquet files and a root, both on one file system."""

    def __init__(self, url: str, picture: Picture, write_source: WriteSource) -> None:
        self.source, self.root = f"{url}/source", f"{url}/root"
        self._picture, self._write = picture, write_source

    def add(self, name: str, numbers: range, images: dict[int, bytes] | None = None, **options: Any) -> None:
        """A file with the pictures of these numbers, labelled 0, 1, 2, 0, ...; `images` replaces some."""
        data = [(images or {}).get(number, self._picture(number)) for number in numbers]
        labels = options.pop("labels", [number % 3 for number in numbers])
        self._write(f"{self.source}/{name}", data, labels, **options)

    def prepare(self, num_classes: int | None = None, images_per_part: int = 4, **options: Any) -> Manifest:
        self.config = PrepareConfig(
            ingest=IngestConfig(num_classes=num_classes, images_per_part=images_per_part), **options
        )
        return stages.prepare(self.config, {"source": self.source}, self.root)

    def rows(self, columns: list[str]) -> list[list[Any]]:
        """These columns of the artifact prepared last, all parts together."""
        url = artifact_url(self.config, input_digests({"source": self.source}), self.root)
        artifact = Artifact.open(url)
        tables = [from_bytes(artifact.read(part), IMAGES, part.path) for part in artifact.manifest.parts]
        return [pa.concat_tables(tables)[name].to_pylist() for name in columns]


@pytest.fixture
def rooms(tmp_path: Path, picture: Picture, write_source: WriteSource) -> Rooms:
    return Rooms(str(tmp_path), picture, write_source)


def test_parts_never_cross_files(rooms: Rooms) -> None:
    rooms.add("a.parquet", range(6))
    rooms.add("sub/b.parquet", range(6, 9))
    manifest = rooms.prepare()
    assert [part.num_rows for part in manifest.parts] == [4, 2, 3]
    assert (manifest.num_rows, manifest.drops, manifest.facts) == (9, {}, {})
    assert rooms.rows(["source"])[0][5:7] == ["a.parquet:5", "sub/b.parquet:0"]


@pytest.mark.parametrize("name", ["z.parquet", "0.parquet"])
def test_added_file_leaves_every_earlier_part_as_it_was(rooms: Rooms, name: str) -> None:
    rooms.add("a.parquet", range(6))
    before = rooms.prepare()
    rooms.add(name, range(6, 9))
    after = rooms.prepare()
    assert after.key != before.key and after.num_rows == 9
    assert set(before.parts) < set(after.parts) and len(after.parts) == 3


def test_added_file_alone_is_taken_in(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms.add("a.parquet", range(6))
    rooms.prepare()
    rooms.add("b.parquet", range(6, 9))
    seen: list[str] = []

    def ingest(file: SourceFile, config: IngestConfig) -> Iterator[pa.Table]:
        seen.append(file.name)
        return ingest_file(file, config)

    monkeypatch.setattr(import_module("noisystudent_core.stages.prepare"), "ingest_file", ingest)
    rooms.prepare()
    assert seen == ["b.parquet"]


def test_files_are_shared_by_artifacts_of_other_settings(rooms: Rooms) -> None:
    rooms.add("a.parquet", range(6))
    assert rooms.prepare(max_bad_fraction=0.5).parts == rooms.prepare().parts


def test_parts_do_not_depend_on_row_groups(rooms: Rooms) -> None:
    rooms.add("a.parquet", range(9), row_group_size=2)
    first = rooms.prepare().content_digest
    rooms.add("a.parquet", range(9), row_group_size=5)
    assert rooms.prepare().content_digest == first


def test_events_count_files(rooms: Rooms) -> None:
    rooms.add("a.parquet", range(6))
    rooms.add("b.parquet", range(6, 9))
    said: list[Any] = []
    stages.prepare(
        PrepareConfig(), {"source": rooms.source}, rooms.root, lambda event, **fields: said.append((event, fields))
    )
    assert said == [("progress", {"done": done, "total": 2, "unit": "files"}) for done in (1, 2)]


def test_classes_are_counted(rooms: Rooms) -> None:
    rooms.add("a.parquet", range(7))
    assert rooms.prepare(num_classes=3).facts == {"class_counts": {"0": 3, "1": 2, "2": 2}}


def test_bad_images_are_kept_and_counted_by_reason(rooms: Rooms, picture: Picture) -> None:
    rooms.add("a.parquet", range(10), {1: b"", 4: picture(4)[:400], 8: b"words", 9: b"more words"})
    manifest = rooms.prepare(num_classes=3, max_bad_fraction=0.4)
    assert manifest.drops == {"empty": 1, "not_an_image": 2, "truncated": 1}
    assert (manifest.num_rows, manifest.facts) == (10, {"class_counts": {"0": 3, "1": 1, "2": 2}})
    assert rooms.rows(["reason"])[0].count(None) == 6


def test_too_many_bad_images_are_an_error(rooms: Rooms) -> None:
    rooms.add("a.parquet", range(10), {1: b"", 2: b"words", 5: b"words"})
    with pytest.raises(BadImagesError) as caught:
        rooms.prepare(max_bad_fraction=0.2)
    reasons = "not_an_image 2: a.parquet:2, ..., empty 1: a.parquet:1"
    assert f"3 of 10 images cannot be used ({reasons})" in str(caught.value)
    assert "at most data.max_bad_fraction=0.2 may: repair the source or raise it" in str(caught.value)


def test_as_many_bad_images_as_allowed_pass(rooms: Rooms) -> None:
    rooms.add("a.parquet", range(10), {1: b"", 2: b"words"})
    assert rooms.prepare(max_bad_fraction=0.2).drops == {"empty": 1, "not_an_image": 1}


def test_bad_images_error_leaves_no_finished_artifact(rooms: Rooms) -> None:
    rooms.add("a.parquet", range(10), {1: b""})
    for _ in range(2):
        with pytest.raises(BadImagesError):
            rooms.prepare()
    assert rooms.prepare(max_bad_fraction=0.1).num_rows == 10


def test_label_outside_the_classes_is_named(rooms: Rooms) -> None:
    rooms.add("a.parquet", range(6))
    with pytest.raises(LabelError, match=r"a\.parquet: row 2 has label 2; must be 0 to 1"):
        rooms.prepare(num_classes=2)


def test_class_without_image_is_named(rooms: Rooms) -> None:
    rooms.add("a.parquet", range(6))
    with pytest.raises(LabelError, match=f"{rooms.source}: no labelled image for class 3; each of the 4 classes"):
        rooms.prepare(num_classes=4)


def test_class_of_bad_images_alone_is_empty(rooms: Rooms) -> None:
    rooms.add("a.parquet", range(6), {2: b"", 5: b""})
    with pytest.raises(LabelError, match="no labelled image for class 2"):
        rooms.prepare(num_classes=3, max_bad_fraction=0.5)


def test_image_with_two_labels_is_an_error(rooms: Rooms, picture: Picture) -> None:
    rooms.add("a.parquet", range(6))
    rooms.add("b.parquet", range(6, 9), {7: picture(0)})
    with pytest.raises(LabelError, match="has labels 0 and 1; must have one: remove it"):
        rooms.prepare(num_classes=3)


def test_same_image_with_one_label_is_kept_twice(rooms: Rooms, picture: Picture) -> None:
    rooms.add("a.parquet", range(7), {6: picture(0)})
    assert rooms.prepare(num_classes=3).num_rows == 7


@pytest.mark.parametrize("files", [["a.parquet"], ["a.parquet", "b.parquet"]])
def test_source_without_rows_is_refused(rooms: Rooms, files: list[str]) -> None:
    for name in files:
        rooms.add(name, range(0), labels=pa.array([], pa.int64()))
    with pytest.raises(SourceError, match="no image in it; give a source with at least one row"):
        rooms.prepare()


def test_file_without_rows_among_others_is_no_error(rooms: Rooms) -> None:
    rooms.add("a.parquet", range(0), labels=pa.array([], pa.int64()))
    rooms.add("b.parquet", range(6))
    assert rooms.prepare(num_classes=3).num_rows == 6


def test_two_shares_are_the_whole_and_share_nothing(rooms: Rooms) -> None:
    rooms.add("a.parquet", range(30))
    sides = {}
    for share in ("training", "validation"):
        rooms.prepare(num_classes=3, share=share, validation_share=0.3)
        sides[share] = list(zip(*rooms.rows(["image_id", "label"]), strict=True))
    rooms.prepare(num_classes=3)
    assert sorted(sides["training"] + sides["validation"]) == sorted(
        zip(*rooms.rows(["image_id", "label"]), strict=True)
    )
    assert [sum(label == c for _, label in sides["validation"]) for c in range(3)] == [3, 3, 3]


def test_equal_images_stay_on_one_side(rooms: Rooms, picture: Picture) -> None:
    rooms.add("a.parquet", range(30))
    rooms.add("b.parquet", range(30, 60), {number: picture(number - 30) for number in range(30, 60)})
    ids = []
    for share in ("training", "validation"):
        rooms.prepare(num_classes=3, share=share, validation_share=0.3)
        ids.append(rooms.rows(["image_id"])[0])
    assert not set(ids[0]) & set(ids[1])
    assert (len(ids[0]), len(ids[1])) == (42, 18)


def test_shares_are_seeded(rooms: Rooms) -> None:
    rooms.add("a.parquet", range(30))
    digests = [
        rooms.prepare(num_classes=3, share="validation", validation_share=0.3, seed=seed).content_digest
        for seed in (0, 1)
    ]
    assert digests[0] != digests[1]


def test_bad_images_count_on_one_side_only(rooms: Rooms) -> None:
    rooms.add("a.parquet", range(30), {4: b"words"})
    drops = [
        rooms.prepare(num_classes=3, share=share, validation_share=0.3, max_bad_fraction=0.1).drops
        for share in ("training", "validation")
    ]
    assert drops == [{"not_an_image": 1}, {}]


def test_class_of_one_image_cannot_be_shared(rooms: Rooms) -> None:
    rooms.add("a.parquet", range(4))
    with pytest.raises(LabelError, match="class 1 has one labelled image: a validation share needs two"):
        rooms.prepare(num_classes=3, share="training")


def test_source_may_be_one_file_or_a_glob(rooms: Rooms) -> None:
    rooms.add("a.parquet", range(6))
    rooms.add("b.parquet", range(6, 9))
    sizes = [
        stages.prepare(PrepareConfig(), {"source": f"{rooms.source}/{name}"}, rooms.root).num_rows
        for name in ("a.parquet", "[ab]*.parquet")
    ]
    assert sizes == [6, 9]


def test_out_holds_its_own_parts(rooms: Rooms) -> None:
    rooms.add("a.parquet", range(6))
    out = f"{rooms.root}/mine"
    manifest = stages.prepare(PrepareConfig(), {"source": rooms.source}, rooms.root, out=out)
    assert manifest.content_digest == stages.prepare(PrepareConfig(), {"source": rooms.source}, out).content_digest
    assert all((Path(out) / part.path).resolve().is_relative_to(out) for part in manifest.parts)


def test_stage_that_was_killed_between_files_ends_the_same(rooms: Rooms) -> None:
    rooms.add("a.parquet", range(6))
    rooms.add("b.parquet", range(6, 9))

    def die(event: str, **fields: Any) -> None:
        if fields["done"] == 1:
            raise KeyboardInterrupt

    broken, whole = Path(rooms.root, "broken"), Path(rooms.root, "whole")
    with pytest.raises(KeyboardInterrupt):
        stages.prepare(PrepareConfig(), {"source": rooms.source}, str(broken), die)
    key = Path(artifact_url(PrepareConfig(), input_digests({"source": rooms.source}), str(broken)))
    assert not key.exists() and list(broken.glob("images/*/manifest.json"))  # of a file's own parts
    for root in (broken, whole):
        stages.prepare(PrepareConfig(), {"source": rooms.source}, str(root))
    assert files(broken) == files(whole)


def files(root: Path) -> dict[Path, bytes]:
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_content_is_the_same_wherever_it_is_stored(
    tmp_path: Path, memory_root: str, picture: Picture, write_source: WriteSource
) -> None:
    digests = set()
    for url in (str(tmp_path), memory_root):
        rooms = Rooms(url, picture, write_source)
        rooms.add("a.parquet", range(9))
        rooms.add("sub/b.parquet", range(9, 12))
        digests.add(rooms.prepare(num_classes=3).content_digest)
    assert len(digests) == 1
