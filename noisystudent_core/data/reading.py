"""Parts that are read before they are wanted."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import pyarrow as pa

LOOK_AHEAD_BYTES = 512 * 2**20  # that may wait in memory
MAX_READS = 8  # at once, where parts are small

Key = TypeVar("Key")
Read = Callable[[], pa.Table]  # columns `image_id`, `image` and `reason` of the images schema


def read_ahead(parts: Iterable[tuple[Key, Read]]) -> Iterator[tuple[Key, pa.Table | Exception]]:
    """Yield each part's key and what its function reads or raises, in order; the next ones are read meanwhile.

    One is at first; then as many as `LOOK_AHEAD_BYTES` hold of the largest so far, from one to `MAX_READS`.
    """
    readers = ThreadPoolExecutor(MAX_READS, "reader")
    waiting: deque[tuple[Key, Future[pa.Table]]] = deque()
    largest = LOOK_AHEAD_BYTES
    try:
        for key, read in parts:
            waiting.append((key, readers.submit(read)))
            while len(waiting) > min(MAX_READS, max(1, LOOK_AHEAD_BYTES // largest)):
                first, table = waiting.popleft()
                found = _outcome(table)
                if not isinstance(found, Exception):
                    largest = max(found.nbytes, 1 if largest == LOOK_AHEAD_BYTES else largest)
                yield first, found
        for key, table in waiting:
            yield key, _outcome(table)
    finally:
        readers.shutdown(cancel_futures=True)


def _outcome(future: Future[pa.Table]) -> pa.Table | Exception:
    try:
        return future.result()
    except Exception as error:
        return error
