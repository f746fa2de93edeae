"""Reading ahead: in order, as much as memory is meant to hold, and no more."""

import threading

import numpy as np
import pyarrow as pa
import pytest

from noisystudent_core.data import reading
from noisystudent_core.data.reading import MAX_READS, read_ahead


@pytest.mark.parametrize(("size", "most"), [(10, MAX_READS), (40, 2), (100, 1), (1000, 1)])
def test_small_parts_are_read_many_at_once(monkeypatch: pytest.MonkeyPatch, size: int, most: int) -> None:
    monkeypatch.setattr(reading, "LOOK_AHEAD_BYTES", 100)
    begun: list[int] = []

    def read(number: int) -> pa.Table:
        begun.append(number)
        return pa.table({"image": np.full(size, number, np.uint8)})

    ahead = []
    for place, (key, found) in enumerate(read_ahead((n, lambda n=n: read(n)) for n in range(40))):
        assert not isinstance(found, Exception)
        assert key == place == found["image"][0].as_py()
        ahead.append(place)
        assert len(begun) <= place + 1 + most
    assert ahead == list(range(40)) and sorted(begun) == ahead


def test_the_next_part_is_read_while_one_is_in_use() -> None:
    second = threading.Event()

    def read(number: int) -> pa.Table:
        if number == 1:
            second.set()
        return pa.table({"image": [number]})

    parts = read_ahead((n, lambda n=n: read(n)) for n in range(3))
    next(parts)
    assert second.wait(10)


def test_what_a_read_raises_stands_in_its_place() -> None:
    def fail() -> pa.Table:
        raise OSError("flaky")

    table = pa.table({"image": [1]})
    found = list(read_ahead([(0, lambda: table), (1, fail), (2, lambda: table)]))
    assert [key for key, _ in found] == [0, 1, 2]
    assert found[0][1] is table and isinstance(found[1][1], OSError) and found[2][1] is table
