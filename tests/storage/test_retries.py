"""What fails for a while is tried again, after waits that grow and are drawn; what fails for good is not."""

import asyncio
from collections.abc import Callable

import pytest

from noisystudent_core.storage import retries
from noisystudent_core.storage.retries import ATTEMPTS, FIRST_WAIT_S, LONGEST_WAIT_S, persistently


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were waited, all at once."""
    waited: list[float] = []

    async def note(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(retries.asyncio, "sleep", note)
    return waited


def failing(times: int) -> tuple[Callable[[], object], list[int]]:
    calls: list[int] = []

    async def call() -> str:
        calls.append(len(calls))
        if len(calls) <= times:
            raise TimeoutError(f"failure {len(calls)}")
        return "done"

    return call, calls


@pytest.mark.parametrize("times", [0, 1, ATTEMPTS - 1])
def test_failures_that_pass_are_outlived(waits: list[float], times: int) -> None:
    call, calls = failing(times)
    assert asyncio.run(persistently(call, lambda _: ATTEMPTS)) == "done"  # pyright: ignore[reportArgumentType]
    assert len(calls) == len(waits) + 1 == times + 1


@pytest.mark.parametrize("attempts", [1, 3, ATTEMPTS])
def test_the_last_error_of_as_many_attempts_as_it_is_worth_is_raised(waits: list[float], attempts: int) -> None:
    call, calls = failing(100)
    with pytest.raises(TimeoutError, match=f"failure {attempts}$"):
        asyncio.run(persistently(call, lambda _: attempts))  # pyright: ignore[reportArgumentType]
    assert len(calls) == len(waits) + 1 == attempts


def test_waits_grow_to_a_limit_and_are_drawn(waits: list[float]) -> None:
    rounds = 200
    for _ in range(rounds):
        call, _ = failing(ATTEMPTS - 1)
        asyncio.run(persistently(call, lambda _: ATTEMPTS))  # pyright: ignore[reportArgumentType]
    for number in range(ATTEMPTS - 1):
        drawn = waits[number :: ATTEMPTS - 1]
        longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**number)
        assert len(set(drawn)) == rounds and 0 <= min(drawn) < longest / 4 and longest * 3 / 4 < max(drawn) <= longest
