"""Work on image parts: what fails is tried again, after the third time set aside, and costs no other."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from noisystudent_core.config.settings import PartSettings
from noisystudent_core.errors import BadImagesError, PartsFailedError
from noisystudent_core.events import silent
from noisystudent_core.stages.by_part import ByPart
from noisystudent_core.stages.units import Unit
from noisystudent_core.storage.failures import LIMIT, Failures
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import Artifact, Manifest, publish_manifest, publish_part
from noisystudent_core.storage.stage import stage
from tests.stages.small import Told

ROWS = pa.schema({"row": pa.int32(), "reason": pa.string()})


class Counting(PartSettings):
    """Numbers the rows of each part."""

    stage, kind, version = "counting", "predictions", 1


class Source(PartSettings):
    """The images that are worked on."""

    stage, kind, version = "prepare", "images", 1


class Work:
    """Numbers rows, fails as it is told to, and remembers in which company it saw each part."""

    def __init__(self) -> None:
        self.failures: dict[int, list[Exception]] = {}  # still to come, by part
        self.bad_rows: dict[int, str] = {}
        self.calls: list[list[int]] = []

    def compute(self, config: Any, inputs: Any, units: Sequence[Unit], events: Any) -> Iterator[tuple[Unit, Any]]:
        self.calls.append([unit.index for unit in units])
        for unit in units:
            waiting = self.failures.get(unit.index, [])
            yield unit, waiting.pop(0) if waiting else self._numbered(unit)

    def _numbered(self, unit: Unit) -> pa.Table:
        reasons = [self.bad_rows.get(unit.index) if row == 0 else None for row in range(unit.num_rows)]
        return pa.table({"row": range(unit.num_rows), "reason": reasons}, schema=ROWS)

    @property
    def stage(self) -> ByPart[Counting]:
        def instead(config: Any, inputs: Any, unit: Unit, reason: str) -> pa.Table:
            return pa.table({"row": [None] * unit.num_rows, "reason": [reason] * unit.num_rows}, schema=ROWS)

        return ByPart("images", (), self.compute, instead, lambda inputs, units: {"number": len(units)})


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def inputs(memory_root: str) -> dict[str, str]:
    """Ten parts of ten rows, the last one of two."""
    url = f"{memory_root}/images/ours"
    sizes = [10] * 9 + [2]
    parts = tuple(publish_part(Folder.at(url), f"{i}.parquet", bytes([i]), size) for i, size in enumerate(sizes))
    publish_manifest(url, Source(), {}, parts, drops={"truncated": 1})
    return {"images": url}


def gather(work: Work, inputs: dict[str, str], root: str, max_missing: float = 0.2, **kwargs: Any) -> Manifest:
    return stage(work.stage.gather)(Counting(max_missing=max_missing), inputs, root, **kwargs)


def group(work: Work, inputs: dict[str, str], root: str, parts: list[int], events: Any = silent) -> int:
    return work.stage.group(Counting(), inputs, root, events, parts=parts)


def test_a_failure_is_another_try_and_nothing_more(work: Work, inputs: dict[str, str], memory_root: str) -> None:
    work.failures = {3: [OSError("the bucket hung up")] * 2}
    with pytest.raises(PartsFailedError, match="1 of 10 parts failed, the first with: OSError: the bucket hung up"):
        group(work, inputs, memory_root, list(range(10)))
    with pytest.raises(PartsFailedError):
        group(work, inputs, memory_root, list(range(10)))
    assert group(work, inputs, memory_root, list(range(10))) == 10
    manifest = gather(work, inputs, memory_root)
    assert (manifest.num_rows, manifest.facts) == (92, {"number": 10, "set_aside": []})
    undisturbed = gather(Work(), inputs, f"{memory_root}/other")
    assert manifest.content_digest == undisturbed.content_digest


def test_a_suspect_is_tried_alone(work: Work, inputs: dict[str, str], memory_root: str) -> None:
    work.failures = {3: [OSError("no")]}
    with pytest.raises(PartsFailedError):
        group(work, inputs, memory_root, [2, 3, 4])
    Failures(_shared(work, inputs, memory_root) / "failures").add(_name(inputs, 5), "worker was ended by SIGKILL")
    group(work, inputs, memory_root, [3, 5, 6, 7])
    assert work.calls == [[2, 3, 4], [6, 7], [3], [5]]


def test_a_part_that_always_fails_is_set_aside_and_listed(work: Work, inputs: dict[str, str], memory_root: str) -> None:
    work.failures = {3: [ValueError("wrong\nindeed")] * 99}
    manifest = gather(work, inputs, memory_root)
    assert len(work.failures[3]) == 99 - LIMIT
    assert manifest.facts["set_aside"] == [{"part": "3.parquet", "num_images": 10, "reason": "ValueError: wrong"}]
    assert manifest.drops == {"set_aside": 10}
    assert [part.num_rows for part in manifest.parts] == [10] * 9 + [2]
    artifact = Artifact.open(f"{memory_root}/predictions/{manifest.key}")
    artifact.check_sizes()
    assert b"ValueError: wrong" in artifact.read(manifest.parts[3])


def test_too_many_missing_end_the_run_and_another_run_tries_again(
    work: Work, inputs: dict[str, str], memory_root: str
) -> None:
    work.failures = {3: [ValueError("three")] * LIMIT, 9: [ValueError("nine")] * LIMIT}
    with pytest.raises(BadImagesError) as error:
        gather(work, inputs, memory_root, max_missing=0.1)
    assert str(error.value).startswith(
        "12 of 92 images have no result, more than max_missing=0.1 of them (10: ValueError: three; 2: ValueError: nine)"
    )
    assert gather(work, inputs, memory_root, max_missing=0.1).facts["set_aside"] == []


def test_images_without_a_result_count_but_those_of_the_intake_do_not(
    work: Work, inputs: dict[str, str], memory_root: str
) -> None:
    work.bad_rows = {0: "truncated", 1: "truncated"}  # one of them was known
    assert gather(work, inputs, memory_root, max_missing=0.011).drops == {"truncated": 2}
    with pytest.raises(BadImagesError, match=r"1 of 92 images .*\(1: truncated\)"):
        gather(work, inputs, f"{memory_root}/other", max_missing=0.01)


def test_what_a_dead_worker_left_without_a_receipt_is_read(
    work: Work, inputs: dict[str, str], memory_root: str
) -> None:
    work.bad_rows = {0: "truncated", 4: "truncated"}
    group(work, inputs, memory_root, [0, 1, 2])
    group(work, inputs, memory_root, [4, 5])
    receipts = _shared(work, inputs, memory_root) / "receipts"
    assert len(receipts.sizes()) == 2
    receipts.remove(next(iter(receipts.sizes())))
    found, whole = gather(work, inputs, memory_root), gather(work, inputs, f"{memory_root}/other")
    assert (found.parts, found.drops) == (whole.parts, {"truncated": 2})


def test_a_supervisor_hears_which_part_is_at_work(work: Work, inputs: dict[str, str], memory_root: str) -> None:
    told = Told([])
    group(work, inputs, memory_root, [1, 2], told)
    parts = [fields for event, fields in told.events if event == "part"]
    assert [fields["name"] for fields in parts] == [_name(inputs, 1), _name(inputs, 2)]
    assert {fields["failures"] for fields in parts} == {(_shared(work, inputs, memory_root) / "failures").url}
    assert Counter(event for event, _ in told.events) == {"part": 2, "progress": 2}


def test_two_passes_at_once_agree(inputs: dict[str, str], root: str) -> None:
    def pass_over(order: list[int]) -> Manifest:
        work = Work()
        for part in order:
            group(work, inputs, root, [part])
        return gather(work, inputs, root)

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(pass_over, [list(range(10)), list(range(9, -1, -1))])
    assert one == other
    assert not [path for path in Path(root).rglob("*") if path.name.endswith(".tmp")]


def test_a_store_that_cannot_be_written_ends_the_group(work: Work, inputs: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "predictions").write_text("a file where a folder must be")
    with pytest.raises(OSError, match="predictions"):
        group(work, inputs, str(tmp_path), [0])


def _name(inputs: dict[str, str], index: int) -> str:
    return Artifact.open(inputs["images"]).manifest.parts[index].digest


def _shared(work: Work, inputs: dict[str, str], root: str) -> Folder:
    return work.stage._shared(Counting(), inputs, root)
