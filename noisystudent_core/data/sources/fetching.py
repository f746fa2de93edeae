"""Reading many files at once, in order, on any file systems; one that cannot be read has a reason instead."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from noisystudent_core.errors import RootError

NUM_READERS = 16
AHEAD = 64  # files that are read before they are wanted
ATTEMPTS = 3

Found = tuple[bytes, str | None]  # a file's bytes, or the reason why there are none
Where = tuple[AbstractFileSystem, str] | str  # a path, or the reason why there is none


def fetched(places: Iterable[Where]) -> Iterator[Found]:
    """Bytes and None for each file, or b"" and "not_found", "is_a_directory", "not_readable" or "unreachable"."""
    waiting = iter(places)
    with ThreadPoolExecutor(NUM_READERS) as pool:
        ahead: deque[Future[Found]] = deque(pool.submit(_fetch, place) for place in islice(waiting, AHEAD))
        try:
            while ahead:
                yield ahead.popleft().result()
                ahead.extend(pool.submit(_fetch, place) for place in islice(waiting, 1))
        finally:
            pool.shutdown(cancel_futures=True)


def _fetch(where: Where) -> Found:
    if isinstance(where, str):
        return b"", where
    fs, path = where
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _read(fs, path), None
        except FileNotFoundError:
            return b"", "is_a_directory" if _is_folder(fs, path) else "not_found"
        except (IsADirectoryError, NotADirectoryError):
            return b"", "is_a_directory" if _is_folder(fs, path) else "not_found"
        except PermissionError:
            return b"", "not_readable"
        except RootError:
            raise  # a bucket, after many tries of its own: that is no image's fault
        except Exception:  # each file system has classes of its own for what may pass: time-outs, status 5xx
            if isinstance(fs, LocalFileSystem) or attempt == ATTEMPTS:
                return b"", "unreachable"
    raise AssertionError("the last attempt returns")


def _read(fs: AbstractFileSystem, path: str) -> bytes:
    if isinstance(fs, LocalFileSystem):
        return Path(path).read_bytes()
    data = fs.cat_file(path)
    assert isinstance(data, bytes)
    return data


def _is_folder(fs: AbstractFileSystem, path: str) -> bool:
    return "http" not in fs.protocol and fs.isdir(path)
