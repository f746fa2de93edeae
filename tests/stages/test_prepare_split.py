"""Splits by count, shuffles, and a stage that is killed or runs out of disk: nothing lost, nothing half-written."""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from noisystudent_core import stages
from noisystudent_core.config import IngestConfig, PrepareConfig
from noisystudent_core.data.schemas import IMAGES, from_bytes
from noisystudent_core.errors import LabelError
from noisystudent_core.stages import rearranging
from noisystudent_core.storage.manifest import Artifact

SIDES = ("training", "validation", "unlabelled")
LIMITED = """
import resource, sys
from noisystudent_core import stages
from noisystudent_core.config import IngestConfig, PrepareConfig
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
config = PrepareConfig(ingest=IngestConfig(images_per_part=20), shuffle=True)
stages.prepare(config, {"source": sys.argv[1]}, sys.argv[2])
"""


@pytest.fixture
def source(tmp_path: Path, picture: Callable[..., bytes], write_source: Callable[..., str]) -> str:
    for number in range(3):
        images = [picture(number * 30 + row, size_px=12) for row in range(30)]
        write_source(f"{tmp_path}/source/{number}.parquet", images, [row % 3 for row in range(30)])
    return f"{tmp_path}/source"


def take(source: str, out: Path, *, images_per_part: int = 7, **settings: Any) -> list[dict[str, Any]]:
    config = PrepareConfig(ingest=IngestConfig(num_classes=3, images_per_part=images_per_part), **settings)
    stages.prepare(config, {"source": source}, "", out=str(out))
    return rows(out)


def rows(out: Path) -> list[dict[str, Any]]:
    artifact = Artifact.open(str(out))
    tables = [from_bytes(artifact.read(part), IMAGES, part.path) for part in artifact.manifest.parts]
    return pa.concat_tables(tables).to_pylist()


def files(root: Path) -> dict[Path, bytes]:
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_so_many_labels_a_class_and_the_rest_without(source: str, tmp_path: Path) -> None:
    given = {"validation_share": 0.2, "labelled_per_class": 5, "seed": 3}
    sides = {share: take(source, tmp_path / share, share=share, **given) for share in SIDES}
    assert {share: len(found) for share, found in sides.items()} == {"training": 15, "validation": 18, "unlabelled": 57}
    assert Counter(row["label"] for row in sides["training"]) == {0: 5, 1: 5, 2: 5}
    assert Counter(row["label"] for row in sides["validation"]) == {0: 6, 1: 6, 2: 6}
    assert {row["label"] for row in sides["unlabelled"]} == {None}
    ids = [row["image_id"] for found in sides.values() for row in found]
    assert len(set(ids)) == 90
    assert Artifact.open(str(tmp_path / "training")).manifest.facts["class_counts"] == {"0": 5, "1": 5, "2": 5}


def test_sides_share_what_was_taken_in(source: str, tmp_path: Path) -> None:
    for share in SIDES:
        take(source, tmp_path / "out" / share, share=share, labelled_per_class=5)
    assert len(list((tmp_path / "out" / ".taken-in").iterdir())) == 3


def test_fewer_labels_are_among_more(source: str, tmp_path: Path) -> None:
    few, more = (
        {row["image_id"] for row in take(source, tmp_path / str(n), share="training", labelled_per_class=n)}
        for n in (2, 9)
    )
    assert few < more


def test_class_with_too_few_images_is_named(source: str, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="class 0 has 30 images for labelled_per_class=31; lower it"):
        take(source, tmp_path / "out", share="training", validation_share=0, labelled_per_class=31)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"labelled_per_class": 5}, 'with share="all"'), ({"share": "unlabelled"}, "without labelled_per_class")],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PrepareConfig(**settings)


@pytest.mark.parametrize("bucket_bytes", [10**9, 20_000])
@pytest.mark.parametrize("images_per_part", [4, 13])
def test_shuffle_is_a_function_of_images_and_seed(
    bucket_bytes: int, images_per_part: int, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = take(source, tmp_path / "plain")
    expected = take(source, tmp_path / "expected", shuffle=True)
    monkeypatch.setattr(rearranging, "BUCKET_BYTES", bucket_bytes)
    monkeypatch.setattr(rearranging, "WINDOW_BYTES", 15_000)
    found = take(source, tmp_path / "found", shuffle=True, images_per_part=images_per_part)
    assert found == expected != plain
    assert sorted(row["source"] for row in found) == sorted(row["source"] for row in plain)
    assert take(source, tmp_path / "other", shuffle=True, seed=1) != expected
    assert not (tmp_path / "found" / ".state").exists()


@pytest.mark.parametrize("number", [0, 3, 7, 12, 20])
def test_shuffle_that_was_killed_ends_with_the_same_bytes(
    number: int, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rearranging, "BUCKET_BYTES", 20_000)
    monkeypatch.setattr(rearranging, "WINDOW_BYTES", 15_000)
    published = rearranging.to_bytes
    calls = iter(range(1000))

    def dying(table: pa.Table, schema: pa.Schema) -> bytes:
        if next(calls) == number:
            raise KeyboardInterrupt
        return published(table, schema)

    with monkeypatch.context() as patch:
        patch.setattr(rearranging, "to_bytes", dying)
        with pytest.raises(KeyboardInterrupt):
            take(source, tmp_path / "killed", shuffle=True)
    assert not (tmp_path / "killed" / "manifest.json").exists()
    for name in ("killed", "whole"):
        take(source, tmp_path / name, shuffle=True)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_full_disk_leaves_nothing_half_written(source: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIMITED, source]
    ended = subprocess.run([*command, str(tmp_path / "full"), "8000"], capture_output=True, text=True, check=False)
    assert ended.returncode != 0 and "RootError" in ended.stderr
    assert "cannot be written ([Errno 27] File too large); make room there, then go on" in ended.stderr
    assert not list((tmp_path / "full").rglob("*.tmp"))
    for name in ("full", "whole"):
        subprocess.run([*command, str(tmp_path / name), "1000000"], check=True)
    assert files(tmp_path / "full") == files(tmp_path / "whole")
