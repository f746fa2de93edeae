"""Notes of failures: counted in order, kept apart by part, and forgotten at once."""

from concurrent.futures import ThreadPoolExecutor

from noisystudent_core.storage.failures import Failures
from noisystudent_core.storage.filesystem import Folder


def test_failures_are_counted_by_part(any_root: str) -> None:
    failures = Failures(Folder.at(any_root) / "failures")
    assert failures.reasons() == {}
    assert [failures.add(part, f"{part} {n}") for n in (1, 2) for part in ("a", "b-c")] == [1, 1, 2, 2]
    assert failures.reasons() == {"a": ["a 1", "a 2"], "b-c": ["b-c 1", "b-c 2"]}
    failures.clear()
    assert failures.reasons() == {}
    assert failures.add("a", "again") == 1


def test_every_one_of_many_writers_counts(root: str) -> None:
    failures = Failures(Folder.at(root) / "failures")
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda n: failures.add("a", str(n)), range(20)))
    assert sorted(numbers) == list(range(1, 21))
    assert sorted(failures.reasons()["a"], key=int) == [str(n) for n in range(20)]
