"""Trying again what failed for a while, with waits that grow and are drawn: many who wait do not return at once."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

ATTEMPTS = 10  # half a minute in all, on average
FIRST_WAIT_S = 0.2  # at most
LONGEST_WAIT_S = 20.0

Result = TypeVar("Result")


async def persistently(call: Callable[[], Awaitable[Result]], attempts_for: Callable[[Exception], int]) -> Result:
    """`await call()`, again after an error for which `attempts_for` allows more attempts; raises the last error.

    The n-th wait is drawn evenly from 0 to `FIRST_WAIT_S` x 2^(n - 1) seconds, or `LONGEST_WAIT_S` ("full jitter").
    """
    attempt = 1
    while True:
        try:
            return await call()
        except Exception as error:
            if attempt >= attempts_for(error):
                raise
        await asyncio.sleep(random.uniform(0, min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (attempt - 1))))
        attempt += 1
