"""Each image part is hashed once, whatever set it stands in."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from noisystudent_core import stages
from noisystudent_core.config import FingerprintConfig, IngestConfig, PrepareConfig
from noisystudent_core.data import duplicates
from noisystudent_core.data.ingest import image_id
from noisystudent_core.data.schemas import FINGERPRINTS, from_bytes
from noisystudent_core.storage.manifest import Artifact, artifact_url, input_digests
from tests.stages.small import stored

Picture = Callable[..., bytes]
WriteSource = Callable[..., str]
CONFIG = FingerprintConfig()


def prepare(root: str, write_source: WriteSource, sources: Mapping[str, Sequence[bytes]]) -> str:
    """The address of an artifact of these images, ten a part, a source a folder's file."""
    for name, data in sources.items():
        write_source(f"{root}/sources/{name}.parquet", data)
    config = PrepareConfig(ingest=IngestConfig(images_per_part=10), max_bad_fraction=1)
    given = {"source": f"{root}/sources"}
    stages.prepare(config, given, root)
    return artifact_url(config, input_digests(given), root)


def hashes(root: str, images: str) -> list[dict[str, object]]:
    stages.fingerprint(CONFIG, {"unlabelled": images}, root)
    artifact = Artifact.open(artifact_url(CONFIG, input_digests({"unlabelled": images}), root))
    tables = [from_bytes(artifact.read(part), FINGERPRINTS, part.path) for part in artifact.manifest.parts]
    return [row for table in tables for row in table.to_pylist()]


def test_rows_are_the_images_in_order(memory_root: str, write_source: WriteSource, picture: Picture) -> None:
    data = [picture(number, kind=("PNG", "JPEG")[number % 2]) for number in range(25)]
    rows = hashes(memory_root, prepare(memory_root, write_source, {"a": data}))
    assert [row["image_id"] for row in rows] == [image_id(image) for image in data]
    assert all(isinstance(row["hash"], int) and row["reason"] is None for row in rows)


def test_damaged_images_have_their_reason(memory_root: str, write_source: WriteSource, picture: Picture) -> None:
    data = [picture(1), b"words", picture(2)[:200], picture(3)]
    rows = hashes(memory_root, prepare(memory_root, write_source, {"a": data}))
    assert [row["reason"] for row in rows] == [None, "not_an_image", "truncated", None]
    assert [row["hash"] is None for row in rows] == [False, True, True, False]


def test_only_new_parts_are_hashed(
    root: str, write_source: WriteSource, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    hash_part = duplicates.fingerprint
    monkeypatch.setattr(duplicates, "fingerprint", lambda table: seen.append(len(table)) or hash_part(table))
    sources = {"a": [picture(number) for number in range(20)]}
    first = hashes(root, prepare(root, write_source, sources))
    again = hashes(root, prepare(root, write_source, sources | {"b": [picture(50)]}))
    assert seen == [10, 10, 1]
    assert again[:20] == first


def test_groups_do_the_work_of_the_stage(root: str, write_source: WriteSource, picture: Picture) -> None:
    images = prepare(root, write_source, {"a": [picture(number) for number in range(35)]})
    groups = stages.plan_fingerprint(CONFIG, {"unlabelled": images}, root, num_groups=3)
    assert sorted(part for group in groups for part in group["parts"]) == [0, 1, 2, 3]
    for group in groups:
        assert stages.fingerprint_group(CONFIG, {"unlabelled": images}, root, parts=group["parts"]) > 0
    grouped = {name: file for name, file in stored(root).items() if Path(name).parts[0] == "fingerprints"}
    hashes(root, images)
    later = stored(root)
    assert {name: later[name] for name in grouped} == grouped
    assert len([name for name in later if name.startswith("fingerprints/") and name.endswith(".parquet")]) == 4
