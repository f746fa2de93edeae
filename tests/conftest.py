"""What every test stands on: small real images, sources made of them, empty roots, and an S3 server on this machine."""

import io
import logging
import os
import posixpath
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import boto3
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from moto.server import ThreadedMotoServer
from PIL import Image

pytest_plugins = ["tests.skips", "tests.storage.faulty_s3"]

# nothing leaves this machine: no usage reports, no look at the hub; child processes inherit it
os.environ |= {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_OFFLINE": "1",
}
torch.set_num_threads(1)

NUM_CLASSES = 3
SIZES = {"labelled": 12, "unlabelled": 30, "validation": 9, "test": 9}  # images in each of `sources`
BUCKET = "noisy-student"

Picture = Callable[..., bytes]
WriteSource = Callable[..., str]


@pytest.fixture(scope="session")
def picture() -> Picture:
    """`picture(number, label=None, kind="PNG", size_px=32)`: an image file of its own for each number.

    Grey noise, with a bright column that tells the label of one of `NUM_CLASSES` classes, so that a net can learn it.
    """

    def draw(number: int, label: int | None = None, kind: str = "PNG", size_px: int = 32) -> bytes:
        pixels = np.random.default_rng(number).integers(0, 90, (size_px, size_px, 3), dtype=np.uint8)
        if label is not None:
            width = size_px // NUM_CLASSES
            pixels[:, label * width : (label + 1) * width] += 150
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind)
        return file.getvalue()

    return draw


@pytest.fixture(scope="session")
def write_source() -> WriteSource:
    """`write_source(url, images, labels=None, names=None, in_struct=True, **options)`: a Parquet file, and its URL."""

    def write(
        url: str,
        images: Sequence[bytes | None],
        labels: Any = None,
        names: Sequence[str] | None = None,
        in_struct: bool = True,
        **options: Any,
    ) -> str:
        column: list[Any] = list(images)
        if in_struct:
            paths = names if names is not None else [None] * len(column)
            column = [{"bytes": data, "path": path} for data, path in zip(column, paths, strict=True)]
        kind = pa.struct({"bytes": pa.binary(), "path": pa.string()}) if in_struct else pa.binary()
        table = pa.table({"image": pa.array(column, kind)})
        if labels is not None:
            table = table.append_column("label", labels if isinstance(labels, pa.Array) else pa.array(labels))
        file = io.BytesIO()
        pq.write_table(table, file, **options)
        fs, path = fsspec.core.url_to_fs(url)
        fs.makedirs(posixpath.dirname(path), exist_ok=True)
        fs.pipe_file(path, file.getvalue())
        return url

    return write


@pytest.fixture
def write_sources(picture: Picture, write_source: WriteSource) -> Callable[[str], dict[str, str]]:
    """`write_sources(root)`: the four sources of `SIZES` under `root`, each a Parquet file, PNG and JPEG by turns.

    All four hold images of their own; labels go 0, 1, 2, 0, ...; the unlabelled file has no label column.
    """

    def write(root: str) -> dict[str, str]:
        urls, first = {}, 0
        for split, size in SIZES.items():
            labels = [row % NUM_CLASSES for row in range(size)]
            kinds = ("PNG", "JPEG")
            images = [picture(first + row, label, kinds[row % 2]) for row, label in enumerate(labels)]
            given = None if split == "unlabelled" else labels
            urls[split] = write_source(f"{root}/sources/{split}.parquet", images, given)
            first += size
        return urls

    return write


@pytest.fixture
def sources(write_sources: Callable[[str], dict[str, str]], tmp_path: Path) -> dict[str, str]:
    """`write_sources` in this test's own folder: split -> path."""
    return write_sources(str(tmp_path))


@pytest.fixture
def root(tmp_path: Path) -> str:
    """An empty root on disk."""
    return str(tmp_path / "root")


@pytest.fixture
def memory_root() -> Iterator[str]:
    """An empty root in this process's memory."""
    url = f"memory://{uuid.uuid4().hex}"
    yield url
    fs, path = fsspec.core.url_to_fs(url)
    if fs.exists(path):
        fs.rm(path, recursive=True)


@pytest.fixture(scope="session")
def s3_environment() -> Iterator[Mapping[str, str]]:
    """A server of the S3 protocol on a free port of this machine, and the variables by which s3fs and boto find it."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a line for each request
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield variables
    server.stop()


@pytest.fixture
def s3_root(s3_environment: Mapping[str, str]) -> str:
    """An empty root on the S3 server."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture(params=["file", "memory", "s3"])
def any_root(request: pytest.FixtureRequest) -> str:
    """An empty root on each of the file systems that are tested."""
    return request.getfixturevalue({"file": "root", "memory": "memory_root", "s3": "s3_root"}[request.param])
