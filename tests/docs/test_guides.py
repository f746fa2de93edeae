"""The guides do what they say: every block of shell or Python in them is run, in order, in a folder as they assume it.

Only the size differs: `noisy-student run` is given a short recipe.
"""

import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

CHECKOUT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TIMEOUT_S = 300

NETS = ("teacher.model", "iterations.*.model")
SMALL_NET = " ".join(
    f"--set '{net}.{setting}'"
    for net in NETS
    for setting in ("name=test_resnet", "pretrained=false", "resolution_px=32")
)
SHORT = "--shrink 0.01 --set robustness={} " + " ".join(
    f"--set '{learner}.train.{setting}'"
    for learner in ("teacher", "iterations.*")
    for setting in ("steps=4", "epochs=null", "warmup_epochs=0")
)
# in place of the command: the net of recipe finetune is a small one, fits are of four steps
COMMAND = f"""#!/bin/sh
case "$*" in
*finetune*) small="{SMALL_NET} --set data.images_per_part=200" ;;
*) small= ;;
esac
case "$1" in
run) short="--num-iterations 1 --threshold 0 --num-images-per-class 20 {SHORT}" ;;
ablate) short="--set selection.threshold=0 --set baselines=false {SHORT}" ;;
*) short= ;;
esac
eval exec {sys.executable} -m flows '"$@"' $short $small
"""


@dataclass(frozen=True)
class Desk:
    """The folder that a reader works in."""

    folder: Path
    environment: dict[str, str]

    def follow(self, guide: str) -> list[str]:
        """Run a guide's blocks, in one shell each; what each one printed."""
        printed = []
        for language, code in BLOCK.findall((CHECKOUT / "docs" / guide).read_text()):
            if language == "python":
                name = code.splitlines()[0].split()[1]
                (self.folder / name).write_text(code)
                continue
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", code],
                cwd=self.folder,
                env=self.environment,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
            assert done.returncode == 0, f"{guide}:\n{code}\n{done.stdout}\n{done.stderr}"
            printed.append(done.stdout)
        return printed


def set_up(folder: Path) -> Desk:
    """A desk with photographs, the examples of the checkout, and the command."""
    (folder / "examples").symlink_to(CHECKOUT / "examples")
    photos(folder / "photos")
    command = folder / "bin" / "noisy-student"
    command.parent.mkdir()
    command.write_text(COMMAND)
    command.chmod(0o755)
    paths = [str(command.parent), str(Path(sys.executable).parent), os.environ["PATH"]]
    home = folder / ".noisy-student"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return Desk(
        folder,
        os.environ
        | {
            "PATH": os.pathsep.join(paths),
            "PYTHONPATH": str(CHECKOUT),
            "NOISY_STUDENT_HOME": str(home),
            "PREFECT_HOME": str(home),
            "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db",
            "PORT": str(port),
        },
    )


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Of the guides that build upon the first one."""
    return set_up(tmp_path_factory.mktemp("desk"))


def photos(folder: Path) -> None:
    """Three classes of pictures: of each some to learn from, some to test on, some without a label."""
    for index, (split, number) in enumerate({"train": 40, "test": 5, "more": 20}.items()):
        for label, name in enumerate(("cat", "dog", "horse")):
            place = folder / split / ("" if split == "more" else name)
            place.mkdir(parents=True, exist_ok=True)
            for i in range(number):
                pixels = np.random.default_rng([index, label, i]).integers(0, 90, (32, 32, 3), dtype=np.uint8)
                pixels[:, label * 10 : label * 10 + 10] += 150
                Image.fromarray(pixels).save(place / f"{name}-{i}.jpg", quality=95)


@pytest.fixture(scope="module")
def reported(desk: Desk) -> list[str]:
    """What the guide to the report prints; it leaves a run."""
    return desk.follow("report.md")


def test_reading_the_report(desk: Desk, reported: list[str]) -> None:
    rows = json.loads((desk.folder / "table.json").read_text())
    lines = reported[-1].splitlines()
    assert f"{rows[-1]['top1']:.4f}" in "".join(line for line in lines if line.startswith("top1"))


def test_serving(desk: Desk, reported: list[str]) -> None:
    rows = json.loads((desk.folder / "table.json").read_text())
    test = pq.read_table(CHECKOUT / "examples/digits/test.parquet").slice(0, 1)
    pq.write_table(test, desk.folder / "photo.parquet")
    (desk.folder / "photo.png").write_bytes(test["image"][0].as_py()["bytes"])
    desk.environment["CHECKPOINT"] = str(desk.folder / "runs/digits" / rows[-1]["checkpoint"])

    classified, labelled, _, program, served = desk.follow("serving.md")
    (part,) = (desk.folder / "labels").rglob("*.parquet")
    likely, name = classified.split()[:2]
    row = pq.read_table(part).to_pylist()[0]
    assert (row["label"], row["confidence"]) == (int(name), pytest.approx(float(likely), abs=0.05))
    assert "predict: 1 rows" in labelled
    assert len(re.findall(r"\d+", program.partition("[")[2])) == 5
    predictions = json.loads(served[served.index("{") :])["predictions"]
    assert [len(logits) for logits in predictions] == [10, 10]


def test_choosing(desk: Desk, reported: list[str]) -> None:
    _, thresholds, selections, study = desk.follow("choosing.md")
    assert len(thresholds.splitlines()) > 5
    assert re.findall(r"^select: ", selections, re.MULTILINE) == ["select: "] * 2
    assert re.findall(r"^\| (ratio \d+)", study, re.MULTILINE) == ["ratio 1", "ratio 3", "ratio 7", "ratio 14"]


def test_own_data(tmp_path: Path) -> None:
    desk = set_up(tmp_path)
    prepared, _, planned, _, used = desk.follow("own-data.md")
    assert "108 rows" in prepared and "12 rows" in prepared and "60 rows" in prepared
    assert "fit student 1" in planned
    assert re.search(r"^top1 \d", used, re.MULTILINE) and "predict: 60 rows" in used
    assert (desk.folder / "inspection.html").read_text().startswith("<!doctype html>")


def test_few_labels(tmp_path: Path) -> None:
    prepared, _, judged = set_up(tmp_path).follow("few-labels.md")
    assert "75 rows" in prepared and "33 rows" in prepared
    assert len(judged.splitlines()) == 2
