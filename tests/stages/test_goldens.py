"""Every stage on a tiny fixed input gives what `goldens.json` says: a change of behaviour needs a new stage version.

prepare, exclusions, select, materialise and inspect_parts are compared by content digest. fit, predict, evaluate and
corrupt compute in floating point, which differs between kinds of CPU in the last bits: they are compared by their
numbers. A report or an inspection is compared by its texts, and its pictures by their grey levels: how a PNG is packed
is no promise.

If a test here fails and the change was meant: raise `version` of the stage's settings in `config/settings.py`, so that
nobody's finished artifact is taken for the new behaviour, then renew the goldens with

    .venv/bin/python -m tests.stages.test_goldens

and commit both. Renewing refuses numbers that changed under an old version. Digests are of Parquet bytes, which a new
pyarrow writes differently: a new lock is the one other reason to renew (`pyarrow` in the file).
"""

import hashlib
import io
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from noisystudent_core.config import EvaluateConfig, ExclusionsConfig, OptimizerConfig, PseudoLabelConfig, settings
from noisystudent_core.config import data as data_settings
from noisystudent_core.config.evaluation import (
    CorruptConfig,
    Corruptions,
    ModelReportConfig,
    Perturbations,
    ReportConfig,
)
from noisystudent_core.data.parts import read_images
from noisystudent_core.data.schemas import HISTORY, PIXELS, PREDICTIONS, distributions, from_bytes, to_bytes
from noisystudent_core.models import checkpoints
from noisystudent_core.models.architectures import create_model
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import Artifact, publish_manifest, publish_part
from noisystudent_core.storage.prepared import inspection_inputs
from tests.stages.small import DISTRIBUTIONS, FIT, LABELS, SELECT, Small

FILE = Path(__file__).with_name("goldens.json")
SIZES = {"labelled": 12, "unlabelled": 30, "validation": 9, "test": 9}
VERSIONS = {
    "prepare": data_settings.PrepareConfig.version,
    "exclusions": data_settings.ExclusionsConfig.version,
    "select": settings.SelectConfig.version,
    "materialise": settings.MaterialiseConfig.version,
    "fit": settings.FitConfig.version,
    "predict": settings.PredictConfig.version,
    "corrupt": CorruptConfig.version,
    "evaluate": EvaluateConfig.version,
    "report": ReportConfig.version,
    "report_model": ModelReportConfig.version,
    "inspect_parts": data_settings.InspectPartsConfig.version,
    "inspect": data_settings.InspectConfig.version,
}
# probabilities are stored as float16; grey levels: one of a small image's pixels may be rounded the other way
TOLERANCES = {"fit": 1e-4, "predict": 1e-3, "evaluate": 1e-4, "corrupt": 0.01, "report": 0.01, "report_model": 0.01}
SUITES = (Corruptions(severities=(1, 3, 5), num_images=3), Perturbations(num_images=2))
FIXED_METRICS = {"top1": 62.5, "top5": 100.0, "loss": 1.25, "macro_f1": 60.25, "ece": 7.5}
# a teacher with batch norm and a student without, slow enough that rounding does not grow: 1e-5 without MKL-DNN
SGD = OptimizerConfig(name="sgd", learning_rate=0.01, learning_rate_batch=6)
ADAMW = OptimizerConfig(name="adamw", learning_rate=2e-3, learning_rate_batch=6, decay=0.999, eps=1e-8)
TEACHER = FIT.model_copy(update={"train": FIT.train.model_copy(update={"steps": 12, "optimizer": SGD})})
STUDENT = TEACHER.model_copy(
    update={
        "model": FIT.model.model_copy(update={"name": "test_convnext"}),
        "train": FIT.train.model_copy(update={"steps": 12, "optimizer": ADAMW}),
        "pseudo_labels": PseudoLabelConfig(unlabelled_ratio=2),
    }
)


def image(number: int, label: int) -> bytes:
    """An 8 x 8 portable pixmap, the same bytes for ever: a bright band tells the label."""
    pixels = bytearray((number * 37 + place * place * 11 + place * 7) % 90 for place in range(8 * 8 * 3))
    for place in range(len(pixels)):
        if place // 3 % 8 // 2 == label:
            pixels[place] += 160
    return b"P6 8 8 255\n" + bytes(pixels)


def write_sources(folder: Path) -> dict[str, str]:
    """Four sources; the last unlabelled image is also the first test image, the one before it is damaged."""
    urls, first = {}, 0
    for split, size in SIZES.items():
        labels = [row % 3 for row in range(size)]
        images = [image(first + row, label) for row, label in enumerate(labels)]
        if split == "unlabelled":
            images[-2:] = [b"P6 8 8 255\n", image(SIZES["labelled"] + SIZES["unlabelled"] + SIZES["validation"], 0)]
        urls[split] = str(folder / f"{split}.parquet")
        pq.write_table(pa.table({"image": images} | ({} if split == "unlabelled" else {"label": labels})), urls[split])
        first += size
    return urls


def measure(folder: Path) -> dict[str, Any]:
    """Run every stage, and return what is kept of each."""
    torch.set_num_threads(1)
    small = Small(str(folder / "root"))
    sources = write_sources(folder)
    data = {
        split: small.prepare(url, labelled=split != "unlabelled", max_bad_fraction=0.1)
        for split, url in sources.items()
    }
    excluded = small.run("exclusions", ExclusionsConfig(), {"unlabelled": data["unlabelled"], "test": data["test"]})
    # what follows floating point is given fixed predictions: the digest of a selection holds no computed number
    predictions = _fixed_predictions(small, data)
    selection = small.run(
        "select", SELECT, {"predictions": predictions, "images": data["unlabelled"], "exclusions": excluded}
    )
    labelled = {"labelled": data["labelled"], "validation": data["validation"]}
    teacher = small.run("fit", TEACHER, labelled)
    selected = {"images": data["unlabelled"], "selection": selection}
    fixed = _fixed_checkpoint(small)  # so that another way of fitting is no change of predict and evaluate
    pseudo = small.run("predict", DISTRIBUTIONS, {"checkpoint": fixed, **selected})
    student = small.run("fit", STUDENT, {**labelled, **selected, "predictions": pseudo})
    measured = small.run("evaluate", EvaluateConfig(), {"checkpoint": fixed, "images": data["test"]})
    materialised = small.run("materialise", settings.MaterialiseConfig(images_per_part=8), selected)
    worse = [CorruptConfig(suite=suite, resolution_px=32, crop_fraction=1.0) for suite in SUITES]
    corrupted = [small.run("corrupt", config, {"images": data["test"]}) for config in worse]
    pictured = {**selected, "predictions": predictions, "exclusions": excluded}
    report = small.run("report", ReportConfig(name="golden"), {**_fixed_models(small, fixed), **pictured})
    of_one = {"checkpoint": fixed, "images": data["test"]}
    of_one["evaluation images"] = small.run("evaluate", EvaluateConfig(benchmark="images"), of_one)
    looked_at = {
        split: small.run("inspect_parts", data_settings.InspectPartsConfig(), {"images": url})
        for split, url in data.items()
    }
    inspected = small.run("inspect", data_settings.InspectConfig(), inspection_inputs(data, looked_at))
    return {
        "prepare": {split: Artifact.open(url).manifest.content_digest for split, url in data.items()},
        "exclusions": Artifact.open(excluded).manifest.content_digest,
        "select": Artifact.open(selection).manifest.content_digest,
        "materialise": Artifact.open(materialised).manifest.content_digest,
        "corrupt": {name: level for url in corrupted for name, level in _grey_levels(url).items()},
        "report": _texts_and_pictures(report),
        "report_model": _texts_and_pictures(small.run("report_model", ModelReportConfig(), of_one)),
        "inspect_parts": {split: Artifact.open(url).manifest.content_digest for split, url in looked_at.items()},
        "inspect": _texts_and_pictures(inspected),
        "fit": {"teacher": _losses(teacher), "student": _losses(student)},
        "predict": _probabilities(pseudo),
        "evaluate": Artifact.open(measured).manifest.facts["metrics"],
    }


def _fixed_predictions(small: Small, data: dict[str, str]) -> str:
    """Labels as drawn, confidences without a pattern, no label for the damaged image."""
    url, parts = f"{small.root}/fixed", []
    images = Artifact.open(data["unlabelled"])
    for index, part in enumerate(images.manifest.parts):
        rows = read_images(images, part, ["image_id", "reason"])
        good = [reason is None for reason in rows["reason"].to_pylist()]
        columns = {
            "image_id": rows["image_id"],
            "label": [row % 3 if ok else None for row, ok in enumerate(good)],
            "confidence": [(index * 31 + row * 17) % 64 / 64 if ok else None for row, ok in enumerate(good)],
            "reason": rows["reason"],
        }
        data_of_part = to_bytes(pa.table(columns, schema=PREDICTIONS), PREDICTIONS)
        parts.append(publish_part(Folder.at(url), f"{index}.parquet", data_of_part, len(rows)))
    publish_manifest(url, LABELS, {}, tuple(parts))
    return url


def _fixed_checkpoint(small: Small) -> str:
    """A net that was never fitted: every weight follows a pattern, so that no two images look alike to it."""
    url = f"{small.root}/fixed_checkpoint"
    net = create_model(TEACHER.model, TEACHER.num_classes, seed=0, batch_norm_momentum=0.1)
    for number, tensor in enumerate(net.parameters()):
        pattern = torch.arange(tensor.numel()) * 0.7 + number
        tensor.data = (pattern.sin() * (2 / tensor[:1].numel()) ** 0.5).view_as(tensor)
    for tensor in net.get_submodule("fc").parameters():
        tensor.data *= 0.1  # else it is sure of everything
    files = checkpoints.encode(net, TEACHER.model)
    parts = tuple(publish_part(Folder.at(url), name, data, 0) for name, data in files.items())
    num_parameters = sum(tensor.numel() for tensor in net.parameters())
    publish_manifest(url, TEACHER, {}, parts, facts={"num_parameters": num_parameters})
    return url


def _fixed_models(small: Small, checkpoint: str) -> dict[str, str]:
    """A teacher and a student of the same weights, of whom numbers are told that nobody measured."""
    found = {}
    for number in range(2):
        found[f"checkpoint {number}"] = checkpoint
        for benchmark, better in (("validation", 5), ("test", 0)):
            url = f"{small.root}/fixed_evaluations/{benchmark}{number}"
            metrics = {name: value + number * better for name, value in FIXED_METRICS.items()}
            facts = {"metrics": metrics, "num_images": 9, "arrays": {}}
            publish_manifest(url, EvaluateConfig(benchmark=benchmark), {}, (), facts=facts)
            found[f"evaluation {number} {benchmark}"] = url
    return found


def _grey_levels(corrupted: str) -> dict[str, float]:
    """The mean of every kind of images."""
    artifact, found = Artifact.open(corrupted), {}
    for part in artifact.manifest.parts:
        pixels = from_bytes(artifact.read(part), PIXELS, part.path)["pixels"].to_pylist()
        found[part.path] = round(float(np.frombuffer(b"".join(pixels), np.uint8).mean()), 4)
    return found


def _texts_and_pictures(report: str) -> dict[str, Any]:
    """Digests of the texts, without pictures within a page and addresses, and mean grey levels of the figures."""
    artifact, found = Artifact.open(report), {}
    for part in artifact.manifest.parts:
        data = artifact.read(part)
        if part.path.endswith(".png"):
            found[part.path] = round(float(np.asarray(Image.open(io.BytesIO(data)).convert("L")).mean()), 4)
        else:
            text = re.sub(r"base64,[^\"]*|checkpoints/\w+|/[\w/.-]+/images/\w+", "", data.decode())
            found[part.path] = hashlib.sha256(text.encode()).hexdigest()[:32]
    return found


def _losses(checkpoint: str) -> dict[str, list[float]]:
    artifact = Artifact.open(checkpoint)
    part = next(part for part in artifact.manifest.parts if part.path == "history.parquet")
    curves: dict[str, list[float]] = {}
    for row in from_bytes(artifact.read(part), HISTORY, part.path).to_pylist():
        curves.setdefault(row["metric"], []).append(round(row["value"], 6))
    return curves


def _probabilities(predictions: str) -> list[list[float]]:
    artifact = Artifact.open(predictions)
    tables = [from_bytes(artifact.read(part), distributions(3), part.path) for part in artifact.manifest.parts]
    return [[round(p, 6) for p in row["probabilities"]] for table in tables for row in table.to_pylist()[:3]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return measure(tmp_path_factory.mktemp("goldens"))


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return json.loads(FILE.read_text())


def test_goldens_are_of_this_pyarrow(golden: dict[str, Any]) -> None:
    assert golden["pyarrow"] == pa.__version__, "the lock has another pyarrow: renew the goldens, see above"


@pytest.mark.parametrize("stage", VERSIONS)
def test_goldens_are_of_this_version(golden: dict[str, Any], stage: str) -> None:
    assert golden["versions"][stage] == VERSIONS[stage], "the stage has another version: renew the goldens, see above"


@pytest.mark.parametrize("stage", VERSIONS)
def test_stage_gives_what_its_version_promises(golden: dict[str, Any], found: dict[str, Any], stage: str) -> None:
    assert agree(found[stage], golden[stage], TOLERANCES.get(stage, 0.0)), (
        f"{stage} changed: raise its version and renew the goldens, see above"
    )


def test_numbers_that_differ_do_not_agree() -> None:
    assert agree({"a": [1.0, "x"]}, {"a": [1.00005, "x"]}, 1e-4)
    for other in ({"a": [1.001, "x"]}, {"a": [1.0, "y"]}, {"a": [1.0]}, {"b": [1.0, "x"]}):
        assert not agree({"a": [1.0, "x"]}, other, 1e-4)


def agree(found: Any, golden: Any, tolerance: float) -> bool:
    """Whether texts are equal and numbers within the tolerance, through mappings and lists."""
    if isinstance(found, dict):
        return found.keys() == golden.keys() and all(agree(found[key], golden[key], tolerance) for key in found)
    if isinstance(found, list):
        return len(found) == len(golden) and all(agree(a, b, tolerance) for a, b in zip(found, golden, strict=True))
    return found == golden if isinstance(found, str) else abs(found - golden) <= tolerance


def renew() -> None:
    """Write `goldens.json` anew; refuses what changed under an old version and an old pyarrow."""
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder))
    before = json.loads(FILE.read_text())
    for stage, version in VERSIONS.items() if before["pyarrow"] == pa.__version__ else ():
        if version == before["versions"].get(stage) and not agree(
            found[stage], before[stage], TOLERANCES.get(stage, 0.0)
        ):
            sys.exit(f"{stage} changed but its version is still {version}: raise it in config/settings.py first")
    FILE.write_text(json.dumps({"pyarrow": pa.__version__, "versions": VERSIONS, **found}, indent=1) + "\n")


if __name__ == "__main__":
    renew()
