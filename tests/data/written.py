"""The same images written as every kind of source."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


class Given(NamedTuple):
    """An image to be written."""

    name: str  # without an ending
    data: bytes
    label: int


def add_to_tar(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def tar(path: Path, members: Mapping[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            add_to_tar(archive, name, data)
    return path


def write_folders(folder: Path, given: Sequence[Given], names: Sequence[str]) -> str:
    for image in given:
        path = folder / names[image.label] / f"{image.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image.data)
    return str(folder)


def write_tars(folder: Path, given: Sequence[Given], names: Sequence[str]) -> str:
    half = len(given) // 2
    for number, images in enumerate((given[:half], given[half:])):
        members = {}
        for image in images:
            members[f"{image.name}.png"] = image.data
            members[f"{image.name}.cls"] = str(image.label).encode()
        tar(folder / f"{number:03d}.tar", members)
    return f"{folder}/{{000..001}}.tar"


def write_named_tars(folder: Path, given: Sequence[Given], names: Sequence[str]) -> str:
    members = {}
    for image in given:
        members[f"{image.name}.json"] = json.dumps({"label": names[image.label]}).encode()
        members[f"{image.name}.jpg"] = image.data
    tar(folder / "all.tar.gz", members, "w:gz")
    return f"{folder}/*.tar.gz"


def hugging_face(names: Sequence[str]) -> dict[bytes, bytes]:
    """A schema's metadata as their library writes it."""
    features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


def write_hugging_face(folder: Path, given: Sequence[Given], names: Sequence[str]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(2):
        rows = given[number::2]
        table = pa.table(
            {
                "image": [{"bytes": image.data, "path": f"{image.name}.png"} for image in rows],
                "label": [image.label for image in rows],
            }
        )
        table = table.replace_schema_metadata(hugging_face(names))
        pq.write_table(table, folder / f"train-{number}.parquet", row_group_size=3)
    return str(folder)


def write_png_column(folder: Path, given: Sequence[Given], names: Sequence[str]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    columns = {"png": [image.data for image in given], "label": [names[image.label] for image in given]}
    pq.write_table(pa.table(columns), folder / "a.parquet")
    return str(folder / "a.parquet")


def write_jpg_column(folder: Path, given: Sequence[Given], names: Sequence[str]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    columns = {"label": [image.label for image in given], "jpg": [image.data for image in given]}
    pq.write_table(pa.table(columns), folder / "a.parquet", row_group_size=5)
    return str(folder)


def write_image_column(folder: Path, given: Sequence[Given], names: Sequence[str]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    data = pa.array([image.data for image in given], pa.large_binary())
    pq.write_table(pa.table({"image": data, "label": [image.label for image in given]}), folder / "a.parquet")
    return str(folder)


def write_csv(folder: Path, given: Sequence[Given], names: Sequence[str]) -> str:
    write_folders(folder / "files", given, names)
    lines = [f"files/{names[image.label]}/{image.name}.png,{names[image.label]}" for image in given]
    (folder / "list.csv").write_text("uri,label\n" + "\n".join(lines) + "\n")
    return str(folder / "list.csv")


def write_parquet_manifest(folder: Path, given: Sequence[Given], names: Sequence[str]) -> str:
    write_folders(folder / "files", given, names)
    paths = [f"file://{folder}/files/{names[image.label]}/{image.name}.png" for image in given]
    pq.write_table(pa.table({"path": paths, "label": [image.label for image in given]}), folder / "list.parquet")
    return str(folder / "list.parquet")


Write = Callable[[Path, Sequence[Given], Sequence[str]], str]
KINDS: dict[str, Write] = {
    "folders": write_folders,
    "tars": write_tars,
    "named tars": write_named_tars,
    "hugging face": write_hugging_face,
    "png column": write_png_column,
    "jpg column": write_jpg_column,
    "image column": write_image_column,
    "csv": write_csv,
    "parquet manifest": write_parquet_manifest,
}
NAMED = {"folders", "named tars", "hugging face", "png column", "csv"}  # kinds that say what their classes are called


def write_idx(folder: Path, pixels: np.ndarray, labels: Sequence[int], ending: str = "") -> str:
    """IDX files of images uint8 [N, H, W] or [N, H, W, 3] and their labels, the first one's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in (("images-idx3", pixels), ("labels-idx1", np.array(labels, np.uint8))):
        data = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.tobytes()
        (folder / f"train-{name}-ubyte{ending}").write_bytes(gzip.compress(data) if ending else data)
    return str(folder)
