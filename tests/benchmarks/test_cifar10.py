"""The study of CIFAR-10 on a few pictures of its shape: data divided as said, runs noted, resumed, and tabled."""

import io
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks import cifar10, cifar10_data
from noisystudent_core.recipes import cifar10_mismatched
from noisystudent_core.storage.exporting import export
from noisystudent_core.storage.verify import artifact_urls

OVERRIDES = {
    "batch_size": 20,
    "selection.threshold": 0.17,  # of nets that learnt nothing
    "teacher.model.name": "test_resnet",
    "teacher.train.steps": 2,
    "teacher.train.batch_size": 20,
    "iterations.*.model.name": "test_resnet",
    "iterations.*.train.steps": 2,
    "iterations.*.train.batch_size": 5,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """26 training and 3 test images of each class."""
    folder = tmp_path_factory.mktemp("cifar10")
    for split, number in (("train", 26), ("test", 3)):
        labels = np.arange(10).repeat(number)
        images = [{"bytes": picture(index, int(label), split), "path": None} for index, label in enumerate(labels)]
        kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        table = pa.table({"image": pa.array(images, kind), "label": pa.array(labels, pa.int64())})
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    return folder


def picture(index: int, label: int, split: str) -> bytes:
    pixels = np.random.default_rng([index, label, split == "test"]).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    pixels[0] = label  # so that a test can tell
    Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def data(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    patched = pytest.MonkeyPatch()
    with patched.context() as patch:
        patch.setattr(cifar10_data, "NUM_VALIDATION", 4)
        patch.setattr(cifar10_data, "MISMATCHED_LABELS", 5)
        train, test = cifar10_data.read(str(source))
        cifar10_data.few_labels(train, test, folder / "labels-500", 6, seed=0)
        cifar10_data.mismatched(train, test, folder / "mismatched", seed=0)
    return folder


def class_of(image: bytes) -> int:
    return int(np.asarray(Image.open(io.BytesIO(image)))[0, 0, 0])


def rows(file: Path) -> pa.Table:
    return pq.read_table(file)


def test_no_image_is_in_two_sets(data: Path) -> None:
    tables = [rows(data / "labels-500" / f"{split}.parquet") for split in cifar10_data.SPLITS]
    images = [image for table in tables for image in table["image"].to_pylist()]
    assert [table.num_rows for table in tables] == [60, 160, 40, 30]
    assert len(set(images)) == len(images)
    assert all((np.bincount(table["label"]) == table.num_rows // 10).all() for table in tables if table.num_columns > 1)


def test_animals_are_numbered_anew_and_the_share_shows_something_else(data: Path) -> None:
    for split in ("labelled", "validation", "test"):
        table = rows(data / "mismatched" / f"{split}.parquet")
        assert [cifar10_data.ANIMALS[label] for label in table["label"].to_pylist()] == [
            class_of(image) for image in table["image"].to_pylist()
        ]
    for share in cifar10_data.SHARES:
        table = rows(data / "mismatched" / f"unlabelled-{round(100 * share):03d}.parquet")
        others = [class_of(image) not in cifar10_data.ANIMALS for image in table["image"].to_pylist()]
        assert table.num_rows == 102 and sum(others) == round(share * 102)


def test_the_recipe_reads_what_is_written(data: Path) -> None:
    names = {url.rpartition("/")[2] for share in cifar10_data.SHARES for url in sources(share)}
    assert names == {file.name for file in (data / "mismatched").iterdir()}


def sources(share: float) -> list[str]:
    return list(cifar10_mismatched(share=share).sources.model_dump().values())


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no train-\*.parquet there; give the folder"):
        cifar10_data.read(str(tmp_path))


def test_a_study_is_noted_resumed_and_tabled(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = str(tmp_path / "root"), tmp_path / "cifar10.md"
    two = dict(list(cifar10.MISMATCHED.items())[4:6])  # at a share of a half
    study = cifar10.STUDIES["mismatched"]
    monkeypatch.setitem(cifar10.STUDIES, "mismatched", cifar10.Study(study.title, study.recipe, study.data, two))
    cifar10.run(str(data), root, "mismatched", [0, 1], 0.001, OVERRIDES)
    assert len(list((tmp_path / "root/studies").iterdir())) == 4

    (next((tmp_path / "root/studies").iterdir())).unlink()  # as if killed before it was noted
    before = manifests(root)
    cifar10.run(str(data), root, "mismatched", [0, 1], 0.001, OVERRIDES)
    assert manifests(root) == before

    cifar10.table(root, str(out))
    page = out.read_text()
    assert "`python -m benchmarks.cifar10 run DATA ROOT --study mismatched --seeds 0 1 --shrink 0.001 --set" in page
    lines = [line for line in page.splitlines() if line.startswith("| 50% other")]
    assert [line.split(" | ")[1:4] for line in lines] == [["0", "test_resnet", "2"], ["1", "test_resnet", "2"]] * 2
    assert lines[0].split(" | ")[4:6] == lines[2].split(" | ")[4:6] and "+-" in lines[0]  # one teacher for both
    assert (
        "`python -m benchmarks.cifar10 run DATA ROOT --study mismatched --seeds 0 1 --shrink 0.001 --set"
        in out.read_text()
    )


def manifests(root: str) -> dict[str, float]:
    return {url: Path(url, "manifest.json").stat().st_mtime for url in artifact_urls(root)}


def test_a_root_of_manifests_goes_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    overrides = OVERRIDES | {"robustness": {}, "baselines": False, "selection.threshold": 0.1}
    monkeypatch.setitem(cifar10.STUDIES, "ladder", cifar10.Study("", "cifar10", "labels-500", {"one": {}}, 1))
    cifar10.run(str(data), str(root), "ladder", [0], 0.001, overrides)
    export(str(root), str(tmp_path / "out"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run(f"cat {tmp_path}/out/*.tar.* | tar -x -C {elsewhere}", shell=True, check=True)
    assert not list((elsewhere / "images").rglob("*.parquet"))
    cifar10.run(str(data), str(elsewhere), "ladder", [0], 0.001, overrides)  # nothing is missed where nothing is made
    assert not list((elsewhere / "images").rglob("*.parquet"))

    student = max((root / "checkpoints").iterdir(), key=lambda folder: (folder / "manifest.json").stat().st_mtime).name
    for file in ("manifest.json", "model.safetensors"):
        (elsewhere / "checkpoints" / student / file).unlink()
    next((elsewhere / "studies").iterdir()).unlink()
    cifar10.run(str(data), str(elsewhere), "ladder", [0], 0.001, overrides)
    for file in ("config.json", "model.safetensors"):
        path = Path("checkpoints", student, file)
        assert (elsewhere / path).read_bytes() == (root / path).read_bytes()
