"""A manifest says what stands there, whatever wrote it, and refuses what it cannot vouch for."""

import json
from typing import Any

import pytest

from noisystudent_core.config import ExclusionsConfig, PredictConfig, SelectConfig
from noisystudent_core.errors import CorruptArtifactError, ManifestVersionError, SourceError
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import (
    FORMAT,
    NAME,
    Artifact,
    Manifest,
    artifact_url,
    content_digest,
    finished,
    parse,
    publish_manifest,
    publish_part,
    stage_key,
)

CONFIG = ExclusionsConfig()


def publish(url: str, parts: dict[str, bytes], **options: Any) -> Manifest:
    folder = Folder.at(url)
    stored = tuple(publish_part(folder, name, data, num_rows=2) for name, data in parts.items())
    return publish_manifest(url, CONFIG, {"unlabelled": "0" * 32}, stored, **options)


def test_manifest_is_read_as_it_was_published(any_root: str) -> None:
    manifest = publish(any_root, {"a": b"12", "b": b"345"}, drops={"truncated": 1}, facts={"found": 4})
    assert finished(any_root) == Artifact.open(any_root).manifest == manifest
    assert (manifest.num_rows, manifest.drops, manifest.facts) == (4, {"truncated": 1}, {"found": 4})
    assert [(part.path, part.num_bytes) for part in manifest.parts] == [("a", 2), ("b", 3)]


def test_manifest_names_its_stage_and_versions(root: str) -> None:
    manifest = publish(root, {"a": b"12"})
    assert (manifest.stage, manifest.kind, manifest.stage_version) == ("exclusions", "exclusions", CONFIG.version)
    assert {"noisy-student", "torch", "pyarrow"} <= set(manifest.versions)
    assert manifest.config == CONFIG.model_dump() and manifest.inputs == {"unlabelled": "0" * 32}


def test_content_digest_ignores_place_and_name(root: str, memory_root: str) -> None:
    here, there = publish(root, {"a": b"1", "b": b"2"}), publish(memory_root, {"x/c": b"1", "x/d": b"2"})
    assert here.content_digest == there.content_digest
    assert here.content_digest != content_digest(here.parts[::-1])


def test_second_writer_adopts_the_parts_that_stand(any_root: str) -> None:
    first = publish(any_root, {"a": b"first"})
    part = publish_part(Folder.at(any_root), "a", b"second", num_rows=2)
    assert part == first.parts[0]


def test_second_manifest_is_not_written(root: str) -> None:
    first = publish(root, {"a": b"1"})
    assert publish(root, {"a": b"1", "b": b"2"}) == first


def test_key_depends_on_stage_settings_and_inputs_alone() -> None:
    key = stage_key(SelectConfig(), {"images": "1", "predictions": "2"})
    assert key == stage_key(SelectConfig(threshold=0.3), {"predictions": "2", "images": "1"})
    others = [
        stage_key(SelectConfig(seed=1), {"images": "1", "predictions": "2"}),
        stage_key(SelectConfig(), {"images": "2", "predictions": "2"}),
        stage_key(SelectConfig(), {"images": "2", "predictions": "1"}),
        stage_key(SelectConfig(), {"images": "1"}),
        stage_key(PredictConfig(), {"images": "1", "predictions": "2"}),
    ]
    assert len({key, *others}) == 6


def test_newer_stage_version_is_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = stage_key(CONFIG, {})
    monkeypatch.setattr(ExclusionsConfig, "version", ExclusionsConfig.version + 1)
    assert stage_key(CONFIG, {}) != before


def test_artifact_lies_under_its_kind(any_root: str) -> None:
    url = artifact_url(SelectConfig(), {}, any_root)
    assert url.endswith(f"/selection/{stage_key(SelectConfig(), {})}")
    assert url.startswith(Folder.at(any_root).url)


def test_unfinished_stage_is_none(any_root: str) -> None:
    Folder.at(any_root).publish("a", b"1")
    assert finished(any_root) is None
    with pytest.raises(SourceError, match=r"no manifest\.json there, so no finished artifact; run the stage"):
        Artifact.open(any_root)


def test_newer_format_asks_for_an_upgrade(root: str) -> None:
    tree = publish(root, {"a": b"1"}).model_dump(mode="json") | {"format": FORMAT + 1, "shape": "new"}
    with pytest.raises(ManifestVersionError, match=f"format {FORMAT + 1}; this version reads up to {FORMAT}: upgrade"):
        parse(json.dumps(tree).encode(), root)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"{}", b'{"format": 1}', b'{"format": "1"}', b"\xff\xfe"])
def test_garbage_is_no_manifest(any_root: str, data: bytes) -> None:
    Folder.at(any_root).publish(NAME, data)
    with pytest.raises(CorruptArtifactError, match=r"not a manifest .* restore it or delete the folder"):
        finished(any_root)


def test_unknown_key_is_no_manifest(root: str) -> None:
    tree = publish(root, {"a": b"1"}).model_dump(mode="json") | {"colour": "red"}
    with pytest.raises(CorruptArtifactError, match="colour"):
        parse(json.dumps(tree).encode(), root)


def test_missing_part_is_found_on_reuse(any_root: str) -> None:
    publish(any_root, {"a": b"1", "sub/b": b"22"})
    folder = Folder.at(any_root)
    folder.fs.rm(f"{folder.path}/sub/b")
    with pytest.raises(CorruptArtifactError, match=r"part sub/b is missing \(2 bytes were written\); restore it, or"):
        finished(any_root)


def test_changed_size_is_found_on_reuse(any_root: str) -> None:
    publish(any_root, {"a": b"1"})
    overwrite(any_root, "a", b"12")
    with pytest.raises(CorruptArtifactError, match=r"part a has 2 bytes \(1 bytes were written"):
        finished(any_root)


def test_changed_bytes_of_the_same_size_are_found_by_reading(any_root: str) -> None:
    part = publish(any_root, {"a": b"1"}).parts[0]
    overwrite(any_root, "a", b"2")
    assert finished(any_root) is not None
    with pytest.raises(CorruptArtifactError, match=f"part a has digest .* the manifest lists {part.digest}"):
        Artifact.open(any_root).read(part)


def test_missing_part_is_found_by_reading(root: str) -> None:
    part = publish(root, {"a": b"1"}).parts[0]
    Folder.at(root).fs.rm(f"{root}/a")
    with pytest.raises(CorruptArtifactError, match="part a is missing"):
        Artifact.open(root).read(part)


def overwrite(url: str, name: str, data: bytes) -> None:
    folder = Folder.at(url)
    folder.fs.pipe_file(f"{folder.path}/{name}", data)
