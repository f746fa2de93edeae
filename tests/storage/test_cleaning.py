"""What `clean` removes and leaves: what runs share, what is going on; killed, it goes on."""

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from noisystudent_core.config import EvaluateConfig, PredictConfig, StageSettings
from noisystudent_core.errors import ConfigurationError, NoisyStudentError, RootError, SourceError
from noisystudent_core.storage import cleaning
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.lease import leased
from noisystudent_core.storage.manifest import Artifact, artifact_url, finished, publish_manifest, publish_part
from noisystudent_core.storage.run_records import RunNotes, records


def made(root: str, run: str, number: int, inputs: dict[str, str] | None = None, shared: str | None = None) -> str:
    """An artifact that a run has made: a part of its own, and one in a folder that others share."""
    config: StageSettings = EvaluateConfig(batch_size=number) if shared is None else PredictConfig(batch_size=number)
    digests = inputs or {}
    url = artifact_url(config, digests, root)
    RunNotes(root, run).use(url)
    folder = Folder.at(url)
    parts = [publish_part(folder, "own.parquet", f"own {number}".encode(), 1)]
    if shared is not None:
        parts.append(publish_part(folder, f"../{shared}/part.parquet", shared.encode(), 1))
        (folder / f"../{shared}/receipts").publish(f"{shared}.json", b"[]")
    publish_manifest(url, config, digests, tuple(parts))
    return url


def begun(root: str, run: str, *given: str) -> None:
    with RunNotes(root, run).lasting("1", f"run {run}", given):
        pass


def content(url: str) -> str:
    return Artifact.open(url).manifest.content_digest


def whole(url: str) -> bool:
    return finished(url) is not None


def files(root: str) -> set[str]:
    folder = Folder.at(root)
    return {str(path).removeprefix(f"{folder.path}/") for path in folder.fs.find(folder.path)}


def test_only_what_no_kept_run_refers_to_goes(any_root: str) -> None:
    begun(any_root, "old")
    old, both = made(any_root, "old", 1), made(any_root, "old", 2)
    begun(any_root, "new")
    made(any_root, "new", 2)
    new, by_hand = made(any_root, "new", 3), made(any_root, "nobody", 4)
    Folder.at(any_root).fs.rm(f"{Folder.at(any_root).path}/runs/nobody", recursive=True)

    before = files(any_root)
    foreseen = cleaning.plan(any_root, 1)
    assert files(any_root) == before
    found = cleaning.clean(any_root, 1)
    assert found == foreseen
    assert (found.artifacts, len(found.files)) == ((old.removeprefix(f"{Folder.at(any_root).url}/"),), 2)
    assert [run.name for run in found.kept] == ["run new"]
    assert [whole(url) for url in (old, both, new, by_hand)] == [False, True, True, True]
    assert [run.digest for run in records(Folder.at(any_root))] == ["new"]
    assert before - files(any_root) >= set(found.files)
    assert cleaning.clean(any_root, 1).files == ()


def test_bytes_are_counted(root: str) -> None:
    begun(root, "old")
    url = made(root, "old", 1)
    begun(root, "new")
    size = sum(file.stat().st_size for file in Path(url).iterdir())
    assert cleaning.clean(root, 1).num_bytes == size
    assert not Path(url).exists()


def test_the_run_that_began_last_is_the_newest(root: str) -> None:
    begun(root, "first")
    url = made(root, "first", 1)
    begun(root, "second")
    begun(root, "first")  # again
    cleaning.clean(root, 1)
    assert whole(url)
    assert [run.digest for run in records(Folder.at(root))] == ["first"]


def test_shared_parts_stay_while_somebody_lists_them(any_root: str) -> None:
    begun(any_root, "old")
    old = made(any_root, "old", 1, shared="both")
    alone = made(any_root, "old", 2, shared="alone")
    begun(any_root, "new")
    new = made(any_root, "new", 3, shared="both")
    cleaning.clean(any_root, 1)
    assert [whole(url) for url in (old, alone, new)] == [False, False, True]
    assert {"predictions/both/part.parquet"} <= files(any_root)
    assert not {path for path in files(any_root) if "alone" in path}  # receipts tell of parts: they go too


def test_artifacts_of_single_source_files_go_with_the_last_that_lists_them(root: str) -> None:
    begun(root, "old")
    old = made(root, "old", 1, shared="file")
    part = publish_part(Folder.at(root) / "predictions/file", "part.parquet", b"file", 1)
    publish_manifest(f"{root}/predictions/file", PredictConfig(), {}, (part,))
    begun(root, "new")
    found = cleaning.clean(root, 1)
    assert set(found.artifacts) == {old.removeprefix(f"{root}/"), "predictions/file"}
    assert not {path for path in files(root) if path.startswith("predictions/")}


def test_what_a_kept_run_was_given_or_made_of_stays(root: str) -> None:
    begun(root, "old")
    given, source = made(root, "old", 1), made(root, "old", 2)
    begun(root, "new", f"{given}/", "s3://elsewhere/checkpoints/1")
    made(root, "new", 3, inputs={"checkpoint": content(source)})
    assert cleaning.clean(root, 1).artifacts == ()


def test_a_run_that_lasts_is_kept_and_what_is_younger_is_left(root: str) -> None:
    begun(root, "old")
    before, shared = made(root, "old", 1), made(root, "old", 2, shared="folder")
    with RunNotes(root, "lasting").lasting("1", "lasting", ()):
        own, younger = made(root, "lasting", 3), made(root, "old", 4)
        begun(root, "new")
        found = cleaning.clean(root, 1)
        assert {run.digest for run in found.kept} == {"new", "lasting"}
        assert [whole(url) for url in (before, shared, own, younger)] == [False, True, True, True]
        assert len(found.left) == 2
    cleaning.clean(root, 1)
    assert [whole(url) for url in (shared, own, younger)] == [False, False, False]


def test_a_fit_under_way_holds_back_what_is_younger(root: str) -> None:
    begun(root, "old")
    with leased(Folder.at(root) / "state" / "somebody"):
        url = made(root, "old", 1)
        begun(root, "new")
        cleaning.clean(root, 1)
    assert whole(url)


def test_a_stage_waits_while_artifacts_are_removed(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noisystudent_core.storage.run_records.POLL_S", 0.01)
    said: list[str] = []
    with leased(Folder.at(root) / "runs" / "cleaning") as _:

        def released(text: str) -> None:
            said.append(text)
            (Folder.at(root) / "runs" / "cleaning").remove_all()

        RunNotes(root, "new").use(f"{root}/predictions/1", released)
    assert said == ["waiting for `noisy-student clean`, which removes artifacts of this root"]
    assert (Path(root) / "runs/new/uses.predictions.1").exists()


def _killed_after(root: str, number: int) -> None:
    remove, left = Folder.remove, [number]

    def counted(self: Folder, name: str) -> None:
        if self.path == Folder.at(root).path:
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
        remove(self, name)

    Folder.remove = counted
    cleaning.clean(root, 1)


@pytest.mark.parametrize("number", [0, 1, 2, 3, 5])
def test_killed_between_deletions_nothing_half_removed_counts_as_finished(root: str, number: int) -> None:
    begun(root, "old")
    urls = [made(root, "old", 1, shared="a"), made(root, "old", 2, shared="b")]
    begun(root, "new")
    kept = made(root, "new", 3)
    process = multiprocessing.get_context("fork").Process(target=_killed_after, args=(root, number))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    for url in urls:
        finished(url)  # raises where a manifest stands and its parts do not
    assert (Path(root) / "runs/cleaning/removing.json").exists()
    cleaning.clean(root, 1)
    assert {path.split("/")[0] for path in files(root)} == {"evaluations", "runs"}
    assert whole(kept)
    assert not [path for path in files(root) if "cleaning" in path or "old" in path]


def test_what_was_made_again_after_a_kill_stays(root: str) -> None:
    begun(root, "old")
    first, second = made(root, "old", 1, shared="a"), made(root, "old", 2, shared="b")
    begun(root, "new")
    process = multiprocessing.get_context("fork").Process(target=_killed_after, args=(root, 4))
    process.start()
    process.join()
    begun(root, "old")  # the run is made again: now it is the newest
    made(root, "old", 1, shared="a")
    with RunNotes(root, "other").lasting("1", "other", ()), pytest.raises(RootError, match="again after that run"):
        cleaning.clean(root, 2)
    cleaning.clean(root, 2)
    assert [whole(url) for url in (first, second)] == [True, False]
    assert not [path for path in files(root) if path.startswith("predictions/b")]


@pytest.mark.parametrize(
    ("keep", "prepare", "error", "words"),
    [
        (0, lambda root: begun(root, "a"), ConfigurationError, "keep_runs=0: must be >= 1"),
        (1, lambda root: None, SourceError, "no run has left notes"),
    ],
)
def test_what_cannot_be_cleaned_is_said(
    root: str, keep: int, prepare: Callable[[str], None], error: type[NoisyStudentError], words: str
) -> None:
    prepare(root)
    with pytest.raises(error, match=words):
        cleaning.clean(root, keep)


def test_a_manifest_that_cannot_be_read_ends_it_before_anything_is_removed(root: str) -> None:
    begun(root, "old")
    url = made(root, "old", 1)
    begun(root, "new")
    Folder.at(root).publish("evaluations/damaged/manifest.json", json.dumps({"format": 1}).encode())
    with pytest.raises(NoisyStudentError, match="not a manifest"):
        cleaning.clean(root, 1)
    assert whole(url)
