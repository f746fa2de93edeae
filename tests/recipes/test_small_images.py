"""CIFAR-10 and SVHN: the settings of METHOD section 7; and CIFAR-10, almost to nothing shrunk, from files to table."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from noisystudent_core import stages
from noisystudent_core.config import NoisyStudentConfig, StageSettings
from noisystudent_core.evaluation import report
from noisystudent_core.noise.input_noise import rand_augment
from noisystudent_core.recipes import cifar10, configure, svhn
from noisystudent_core.storage.manifest import Artifact, artifact_url, input_digests
from noisystudent_core.training.schedule import learning_rate

SIZES = {"labelled": 20, "unlabelled": 40, "validation": 10, "test": 10}


def test_cifar10_is_the_replication_s() -> None:
    config = cifar10()
    learners = [config.teacher, *config.iterations]
    assert [learner.model.name for learner in learners] == [f"cifar_resnet{depth}" for depth in (20, 26, 32, 38)]
    assert (config.selection.threshold, config.selection.balance) == (0.8, "none")
    for student in config.iterations:
        assert (student.model.dropout, student.model.stochastic_depth) == (0.5, 0.2)
        assert student.train.batch_size * (1 + student.pseudo_labels.unlabelled_ratio) == 512
        assert (student.pseudo_labels.labels, student.train.label_smoothing) == ("hard", 0)
    seen = [learner.train.num_steps(5000) * 512 for learner in learners]
    assert seen == pytest.approx([5e6, 15e6, 15e6, 15e6], rel=1e-4)


@pytest.mark.parametrize("learner", [cifar10().teacher, cifar10().iterations[0]])
def test_cifar10_s_rate_is_0_1_and_falls_twice(learner: Any) -> None:
    train, last = learner.train, learner.train.num_steps(5000)
    steps = (0, last // 2 - 1, last // 2 + 1, 3 * last // 4 + 1, last - 1)
    assert [learning_rate(train, step, 5000) for step in steps] == pytest.approx(
        [0.1, 0.1, 0.01, 0.001, 0.001], rel=1e-6
    )
    optimizer = train.optimizer
    assert (optimizer.name, optimizer.momentum, optimizer.nesterov, optimizer.weight_decay) == ("sgd", 0.9, False, 1e-4)


def test_cifar10_s_magnitude_is_27_of_30() -> None:
    """0.9 of the usual range of each operation: 30 degrees, 0.3, 1.9 and a third of 32 pixels."""
    noise = cifar10().teacher.noise
    share = noise.magnitude / 10
    assert 30 * share == 27
    assert 1.8 * share + 0.1 == pytest.approx(1.72)
    assert noise.translate_const * share == pytest.approx(0.9 * 0.33 * 32, abs=0.1)
    assert 2 * int(noise.cutout_const * share) == pytest.approx(0.9 * 0.2 * 32, abs=0.5)
    rand_augment(noise)


def test_svhn_is_the_reference_s() -> None:
    config = svhn()
    (student,) = config.iterations
    assert student.model.name == config.teacher.model.name == "tf_efficientnet_b0_32px"
    assert student.train.num_steps(69_257) == 109_474
    rates = [learning_rate(student.train, step, 69_257) for step in (2705, 109_473)]
    assert rates == pytest.approx([0.016 / 2, 0.0002 / 2], rel=0.2)  # stated per 256 images; the last stairs are coarse
    assert (student.pseudo_labels.unlabelled_ratio, student.train.loss_weighting) == (5, "per_labelled")
    noise = student.noise
    assert (noise.magnitude, noise.translate_const, noise.cutout_const, noise.cutout_px) == (5, 4, 4, 16)
    assert (noise.crop, noise.crop_padding_px, noise.crop_padding_mode, noise.flip) == (
        "translate",
        4,
        "reflect",
        False,
    )
    assert config.selection.num_images_per_class == round(531_131 / 10)


def picture(number: int, label: int) -> bytes:
    """32 x 32 pixels of noise, one of ten places bright."""
    pixels = np.random.default_rng(number).integers(0, 90, (32, 32, 3), dtype=np.uint8)
    pixels[16 * (label // 5) : 16 * (label // 5) + 16, 6 * (label % 5) : 6 * (label % 5) + 6] += 150
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_sources(folder: Path) -> dict[str, str]:
    urls, first = {}, 0
    for split, size in SIZES.items():
        labels = [row % 10 for row in range(size)]
        images = [picture(first + row, label) for row, label in enumerate(labels)]
        urls[split] = str(folder / f"{split}.parquet")
        pq.write_table(pa.table({"image": images} | ({} if split == "unlabelled" else {"label": labels})), urls[split])
        first += size
    return urls


def algorithm_1(config: NoisyStudentConfig, root: str) -> list[dict[str, Any]]:
    """The core alone, without baselines; returns the table."""

    def run(call: str, settings: StageSettings, **inputs: str) -> str:
        stage: Any = getattr(stages, call)
        stage(settings, inputs, root)
        return artifact_url(settings, input_digests(inputs), root)

    def measured(checkpoint: str) -> dict[str, str | None]:
        urls = {
            split: run("evaluate", config.evaluate(split), checkpoint=checkpoint, images=data[split])
            for split in ("validation", "test")
        }
        return {"checkpoint": checkpoint, "supervised": None, **urls}

    data = {split: run("prepare", config.prepare(split), source=str(config.source(split))) for split in SIZES}
    labelled = {"labelled": data["labelled"], "validation": data["validation"]}
    teacher = run("fit", config.fit_teacher(), **labelled)
    models = [measured(teacher)]
    predictions = run("predict", config.predict("label"), checkpoint=teacher, images=data["unlabelled"])
    selection = run(
        "select", config.select(), predictions=predictions, images=data["unlabelled"], labelled=data["labelled"]
    )
    selected = {"images": data["unlabelled"], "selection": selection}
    for i in config.student_iterations:
        pseudo = run("predict", config.teach(i), checkpoint=teacher, **selected)
        teacher = run("fit", config.fit_student(i), **labelled, **selected, predictions=pseudo)
        models.append(measured(teacher))
    return report.iterations(models)


def test_cifar10_runs_from_files_to_the_table(tmp_path: Path) -> None:
    overrides: dict[str, Any] = {"teacher.train.steps": 2, "teacher.train.batch_size": 4, "batch_size": 10}
    overrides |= {"iterations.*.train.steps": 2, "iterations.*.train.batch_size": 2}
    config = configure("cifar10", sources=write_sources(tmp_path), shrink=0.001, threshold=0.05, overrides=overrides)
    rows = algorithm_1(config, str(tmp_path / "root"))
    assert [row["model"] for row in rows] == [f"cifar_resnet{depth}" for depth in (20, 26, 32, 38)]
    assert [row["unlabelled_ratio"] for row in rows] == [None, 1, 1, 1]  # of a shrunk run
    assert all(0 <= row["top1"] <= 100 for row in rows)
    selections = [Artifact.open(str(path.parent)) for path in (tmp_path / "root/selection").glob("*/manifest.json")]
    assert [selection.manifest.facts["num_copies"] for selection in selections] == [40]
