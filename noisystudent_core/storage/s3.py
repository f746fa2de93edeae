"""Buckets through s3fs, with what it leaves open: one policy of retries, whole bodies, few requests, plain words.

s3fs and botocore each retry some errors, without the other's knowledge, and neither a body that is too short nor a
conditional put that meets another. Here every request is tried once by them and again by `persistently`, its body
included. Credentials and endpoint are found as botocore finds them: environment, profile, or the machine's own.
"""

import asyncio
import uuid
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

from botocore.exceptions import IncompleteReadError
from s3fs import S3FileSystem

from noisystudent_core.storage.retries import persistently
from noisystudent_core.storage.s3_errors import attempts_for, code_of, plain

BLOCK = 16 * 2**20  # bytes that one request reads of a file
NUM_AT_ONCE = 8  # blocks of one file that are on their way
MAX_CONNECTIONS = 64
WRITER = "writer"  # of an object: who put it


class S3(S3FileSystem):
    """`S3FileSystem` whose answers are whole and whose errors are final.

    Raises `FileNotFoundError` and `FileExistsError` of files, `UnavailableError` where a bucket went on failing,
    `AccessError` where it refuses or is not there.
    """

    retries = 1  # of s3fs itself
    _has_answered = False  # whether the endpoint is known to be one

    def _prepare_config_kwargs(self) -> dict[str, Any]:
        ours = {"max_pool_connections": MAX_CONNECTIONS, "retries": {"total_max_attempts": 1}}
        return {**super()._prepare_config_kwargs(), **ours}

    async def _call_s3(self, method: str, *options: Any, **kwargs: Any) -> Any:
        """One request of the S3 protocol, its answer's body in memory."""
        attempts = 0

        async def call() -> Any:
            nonlocal attempts
            attempts += 1
            answer = await super(S3, self)._call_s3(method, *options, **kwargs)
            return await _whole(answer) if method == "get_object" else answer

        try:
            answer = await persistently(call, lambda error: attempts_for(error, has_answered=self._has_answered))
        except Exception as error:
            self._has_answered |= bool(code_of(error))
            if (final := plain(error, _address(kwargs), attempts)) is error:
                raise
            raise final from error
        self._has_answered = True
        return answer

    async def _cat_file(
        self,
        path: str,
        version_id: Any = None,
        start: int | None = None,
        end: int | None = None,
        chunksize: int | None = None,
        max_concurrency: int | None = None,
    ) -> bytes:
        """A file's bytes: a small one by one request, where s3fs first asks for its size; a large one by blocks."""
        if start is not None or end is not None or version_id is not None:
            return await super()._cat_file(path, version_id, start, end, chunksize, max_concurrency)
        data, size = await self._first_block(path)
        blocks = [data]
        starts = range(len(data), size, BLOCK)
        for first in range(0, len(starts), NUM_AT_ONCE):
            some = starts[first : first + NUM_AT_ONCE]
            blocks += await asyncio.gather(*(self._block(path, start, min(start + BLOCK, size)) for start in some))
        return b"".join(blocks)

    async def _first_block(self, path: str) -> tuple[bytes, int]:
        """The beginning of a file, and how long it is."""
        bucket, key, _ = self.split_path(path)
        try:
            answer = await self._call_s3("get_object", Bucket=bucket, Key=key, Range=f"bytes=0-{BLOCK - 1}")
        except OSError as error:
            if code_of(error) == "InvalidRange":
                return b"", 0  # there is no first byte
            raise
        data = await answer["Body"].read()
        return data, int(answer.get("ContentRange", f"/{len(data)}").rpartition("/")[2])

    async def _block(self, path: str, start: int, end: int) -> bytes:
        return await super()._cat_file(path, None, start, end)

    async def _pipe_file(self, path: str, data: bytes, *args: Any, **kwargs: Any) -> Any:
        """Write a file; it tells by whom, as a put whose answer was lost is refused when it is sent again."""
        writer = uuid.uuid4().hex
        try:
            return await super()._pipe_file(path, data, *args, Metadata={WRITER: writer}, **kwargs)
        except (FileExistsError, FileNotFoundError):  # there is a file now, or no unfinished upload any more
            if await self._writer(path) != writer:
                raise

    async def _writer(self, path: str) -> str | None:
        bucket, key, _ = self.split_path(path)
        with suppress(FileNotFoundError):
            answer = await self._call_s3("head_object", Bucket=bucket, Key=key)
            return answer.get("Metadata", {}).get(WRITER)
        return None

    async def _abort_mpu(self, bucket: str, key: str, mpu: str) -> None:
        with suppress(FileNotFoundError):  # it is finished, or gone
            await super()._abort_mpu(bucket, key, mpu)

    async def _isfile(self, path: str) -> bool:
        """Whether there is an object: one request, and an error is no answer."""
        bucket, key, _ = self.split_path(path)
        if not key:
            return False
        try:
            await self._call_s3("head_object", Bucket=bucket, Key=key)
        except FileNotFoundError:
            return False
        return True

    async def _ls(self, path: str, detail: bool = False, refresh: bool = False, versions: bool = False) -> list[Any]:
        """What is in a folder, not whether there is a file of its name: an empty one costs no listing of its parent."""
        path = str(self._strip_protocol(path)).rstrip("/")
        if "/" not in path:
            return await super()._ls(path, detail, refresh, versions)
        files = await self._lsdir(path, refresh, versions=versions)
        if not files:
            raise FileNotFoundError(path)
        return files if detail else sorted(file["name"] for file in files)

    async def _rm(self, path: Any, recursive: bool = False, **kwargs: Any) -> None:
        """Delete; a folder with all below it, by a listing and one request for a thousand names."""
        if not recursive or not isinstance(path, str):
            await super()._rm(path, recursive, **kwargs)
            return
        found = [file["name"] for file in await self._lsdir(path, delimiter="")]
        for first in range(0, len(found), 1000):
            await self._bulk_delete(found[first : first + 1000])

    async def _walk(self, path: str, maxdepth: int | None = None, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        """Folders below; one that cannot be listed is an error, where s3fs leaves it out."""
        async for level in super()._walk(path, maxdepth=maxdepth, **{**kwargs, "on_error": _unless_missing}):
            yield level


class _Body:
    """A body that has been read."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self, length: int = -1) -> bytes:
        """The next bytes, or all that are left."""
        end = len(self._data) if length < 0 else length
        data, self._data = self._data[:end], self._data[end:]
        return data

    def close(self) -> None:
        """There is nothing to be closed."""


async def _whole(answer: dict[str, Any]) -> dict[str, Any]:
    """Read an answer's body; raises `IncompleteReadError` unless it has the length of the range it is of."""
    body = answer["Body"]
    try:
        data = await body.read()
    finally:
        body.close()
    if "ContentRange" in answer:
        first, _, last = answer["ContentRange"].removeprefix("bytes ").partition("/")[0].partition("-")
        length = int(last) - int(first) + 1
    else:
        length = answer.get("ContentLength", len(data))
    if len(data) != length:
        raise IncompleteReadError(actual_bytes=len(data), expected_bytes=length)
    return {**answer, "Body": _Body(data)}


def _address(kwargs: dict[str, Any]) -> str:
    """What a request is about."""
    return f"s3://{kwargs.get('Bucket', '')}/{kwargs.get('Key') or kwargs.get('Prefix', '')}".rstrip("/")


def _unless_missing(error: Exception) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
