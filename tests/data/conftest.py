"""Decoding processes, which take seconds to start, shared by the tests of this room."""

from collections.abc import Callable, Iterator

import pytest

from noisystudent_core.data.decoders import Decoders
from tests.data.processes import are_gone, processes

Workers = Callable[[int], Decoders]


@pytest.fixture(scope="session")
def workers() -> Iterator[Workers]:
    """`workers(n)`: decoders with n processes, which are gone once they are closed."""
    started: dict[int, Decoders] = {}

    def get(number: int) -> Decoders:
        if number not in started:
            started[number] = Decoders(number)
        return started[number]

    yield get
    pids = [pid for decoders in started.values() for pid in processes(decoders)]
    for decoders in started.values():
        decoders.close()
    assert are_gone(pids)
