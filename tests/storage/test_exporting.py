"""An export is a root in pieces: it comes back whole, bounded files, equal for equal roots."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from noisystudent_core.config import EvaluateConfig, ExclusionsConfig
from noisystudent_core.errors import ConfigurationError, SourceError
from noisystudent_core.storage.exporting import SUMS, export
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import Artifact, publish_manifest, publish_part
from noisystudent_core.storage.verify import artifact_urls, problems

SMALL, LARGE = bytes(range(256)) * 40, b"pixels" * 1000


@pytest.fixture
def root(tmp_path: Path) -> str:
    """An evaluation and exclusions; the part of these lies beside their folder, as those of passes do."""
    for config, path, data in (
        (EvaluateConfig(benchmark="test"), "metrics.parquet", SMALL),
        (ExclusionsConfig(), "../shared/part.parquet", LARGE),
    ):
        folder = Folder.at(str(tmp_path / "root")) / config.kind / "key"
        part = publish_part(folder, path, data, num_rows=1)
        publish_manifest(folder.url, config, {}, (part,))
    return str(tmp_path / "root")


def unpacked(out: str, folder: Path) -> str:
    folder.mkdir()
    subprocess.run(f"cat {out}/*.tar.* | tar -x -C {folder}", shell=True, check=True)
    return str(folder)


def test_small_kinds_come_back_whole_and_of_others_the_manifest(root: str, tmp_path: Path) -> None:
    export(root, str(tmp_path / "out"))
    back = unpacked(str(tmp_path / "out"), tmp_path / "back")
    evaluation, exclusions = artifact_urls(back)
    assert list(problems(evaluation)) == [] and len(list(problems(exclusions))) == 1
    assert Artifact.open(exclusions).manifest == Artifact.open(f"{root}/exclusions/key").manifest


def test_everything_comes_back(root: str, tmp_path: Path) -> None:
    export(root, str(tmp_path / "out"), everything=True)
    back = unpacked(str(tmp_path / "out"), tmp_path / "back")
    assert [list(problems(url)) for url in artifact_urls(back)] == [[], []]


def test_pieces_are_bounded_summed_and_the_same_again(root: str, tmp_path: Path) -> None:
    names = export(root, str(tmp_path / "out"), max_bytes=3000)
    sizes = [(tmp_path / "out" / name).stat().st_size for name in names]
    assert len(names) > 3 and set(sizes[:-1]) == {3000} and 0 < sizes[-1] <= 3000
    sums = (tmp_path / "out" / SUMS).read_text().splitlines()
    assert sums == [f"{hashlib.sha256((tmp_path / 'out' / name).read_bytes()).hexdigest()}  {name}" for name in names]
    assert export(root, str(tmp_path / "again"), max_bytes=3000) == names
    assert (tmp_path / "again" / SUMS).read_text().splitlines() == sums
    assert list(problems(artifact_urls(unpacked(str(tmp_path / "out"), tmp_path / "back"))[0])) == []


def test_no_artifact_and_a_folder_in_use_are_refused(root: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no artifact under it"):
        export(str(tmp_path / "nothing"), str(tmp_path / "out"))
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match=r"holds 1 files \(notes.txt, ...\); export into an empty folder"):
        export(root, str(tmp_path / "used"))
