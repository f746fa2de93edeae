"""Everything under a root is checked against what was written, and every fault is named."""

import pytest

from noisystudent_core.config import ExclusionsConfig
from noisystudent_core.errors import SourceError
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import NAME, publish_manifest, publish_part
from noisystudent_core.storage.verify import artifact_urls, problems


@pytest.fixture
def artifacts(any_root: str) -> str:
    """A root with two artifacts of two parts, and the parts of a third, unfinished one."""
    for name in ("images/b", "exclusions/a", "images/unfinished"):
        folder = Folder.at(any_root) / name
        parts = tuple(publish_part(folder, f"part-{i}", f"{name} {i}".encode(), 1) for i in range(2))
        if name != "images/unfinished":
            publish_manifest(folder.url, ExclusionsConfig(), {}, parts)
    return any_root


def found(root: str) -> list[str]:
    return [problem for url in artifact_urls(root) for problem in problems(url)]


def change(root: str, path: str, data: bytes) -> None:
    folder = Folder.at(root)
    folder.fs.pipe_file(f"{folder.path}/{path}", data)


def test_finished_artifacts_are_listed_in_order(artifacts: str) -> None:
    root = Folder.at(artifacts)
    assert artifact_urls(artifacts) == [(root / "exclusions/a").url, (root / "images/b").url]


def test_sound_root_has_no_problem(artifacts: str) -> None:
    assert found(artifacts) == []


def test_changed_byte_is_found(artifacts: str) -> None:
    change(artifacts, "images/b/part-1", b"images/b 2")
    assert len(found(artifacts)) == 1
    assert "images/b: part part-1 has digest" in found(artifacts)[0]


def test_every_fault_is_found(artifacts: str) -> None:
    change(artifacts, "images/b/part-0", b"short")
    folder = Folder.at(artifacts)
    folder.fs.rm(f"{folder.path}/images/b/part-1")
    change(artifacts, f"exclusions/a/{NAME}", b"garbage")
    words = ["not a manifest", "part part-0 has digest", "part part-1 is missing"]
    assert all(word in problem for word, problem in zip(words, found(artifacts), strict=True))


def test_newer_manifest_is_a_problem_of_its_own(artifacts: str) -> None:
    change(artifacts, f"exclusions/a/{NAME}", b'{"format": 99}')
    assert [problem.partition(": ")[2] for problem in found(artifacts)] == [
        "manifest format 99; this version reads up to 1: upgrade noisy-student"
    ]


def test_root_without_artifact_is_refused(any_root: str) -> None:
    with pytest.raises(SourceError, match=f"{any_root}: no artifact under it; give the root that a run was given"):
        artifact_urls(any_root)
