"""Released benchmarks through the stage: folders that are wrong are refused before an image of them is read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noisystudent_core import stages
from noisystudent_core.config import EvaluateConfig
from noisystudent_core.config.evaluation import Corruptions
from noisystudent_core.config.model_evaluation import ModelEvaluation
from noisystudent_core.errors import ConfigurationError, LabelError, SourceError
from noisystudent_core.evaluation import corruptions, perturbations
from noisystudent_core.storage.manifest import Artifact
from tests.stages.small import Small, Told

NUMBERS = ("0", "1", "2")
NOT_AN_IMAGE = b"this is read by nobody"


def write_c(root: Path, data: Callable[[int], bytes], names: tuple[str, ...] = NUMBERS) -> None:
    for corruption in corruptions.NAMES:
        for severity in corruptions.SEVERITIES:
            for label, name in enumerate(names):
                path = root / corruption / str(severity) / name / "image.JPEG"
                path.parent.mkdir(parents=True)
                path.write_bytes(data(label))


def write_p(root: Path, data: Callable[[int], bytes], names: tuple[str, ...] = NUMBERS) -> None:
    for perturbation in perturbations.NAMES:
        for label, name in enumerate(names):
            for frame in range(2):
                path = root / perturbation / name / "video" / f"img{frame}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data(label))


WRITE = {"imagenet_c": write_c, "imagenet_p": write_p}


@pytest.mark.parametrize(("kind", "total"), [("imagenet_c", 75 * 3), ("imagenet_p", 10 * 3)])
def test_layouts_as_released_of_any_classes(
    small: Small, data: dict[str, str], picture: Callable[..., bytes], tmp_path: Path, kind: Any, total: int
) -> None:
    WRITE[kind](tmp_path, lambda label: picture(label, label, "JPEG" if kind == "imagenet_c" else "PNG"))
    told = Told([])
    config = EvaluateConfig(released=kind, batch_size=2)
    manifest = stages.evaluate(config, {"checkpoint": small.teacher(data), "folder": str(tmp_path)}, small.root, told)
    assert manifest.facts["num_images"] == 3
    assert not {"mce", "mfr"} & manifest.facts["metrics"].keys()  # AlexNet is no measure of three classes
    said = [fields for event, fields in told.events if event == "progress"]
    assert (said[-1]["done"], said[-1]["total"]) == (total, total)
    assert [fields["done"] for fields in said] == sorted({fields["done"] for fields in said})


@pytest.mark.parametrize(
    ("kind", "gone", "error", "message"),
    [
        ("imagenet_c", "jpeg_compression", SourceError, r"lacks 1 of 15 corruptions \(jpeg_compression\), has bright"),
        ("imagenet_c", "jpeg_compression/5", SourceError, r"jpeg_compression: lacks 1 of 5 severities \(5\), has 1, 2"),
        (
            "imagenet_c",
            "jpeg_compression/5/1",
            LabelError,
            r"jpeg_compression/5: no image of 1 of 3 classes \(1\); unp",
        ),
        ("imagenet_p", "scale", SourceError, r"lacks 1 of 10 perturbations \(scale\), has brightness"),
        ("imagenet_p", "scale/1", LabelError, r"scale: no image of 1 of 3 classes \(1\); unpack the whole"),
    ],
)
def test_what_is_missing_at_the_end_is_named_at_the_beginning(
    small: Small,
    data: dict[str, str],
    tmp_path: Path,
    kind: Any,
    gone: str,
    error: type[Exception],
    message: str,
) -> None:
    WRITE[kind](tmp_path, lambda _: NOT_AN_IMAGE)
    whole = tmp_path / gone
    for path in sorted(whole.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    whole.rmdir()
    with pytest.raises(error, match=message):
        small.run(
            "evaluate", EvaluateConfig(released=kind), {"checkpoint": small.teacher(data), "folder": str(tmp_path)}
        )


@pytest.mark.parametrize("kind", ["imagenet_a", "real"])
def test_imagenet_s_benchmarks_need_a_net_of_imagenet(
    small: Small, data: dict[str, str], tmp_path: Path, kind: Any
) -> None:
    (tmp_path / "n01498041").mkdir()
    (tmp_path / "n01498041" / "image.jpg").write_bytes(NOT_AN_IMAGE)
    inputs = {"checkpoint": small.teacher(data), "folder": str(tmp_path)}
    with pytest.raises(LabelError, match=f"3 classes: {kind} needs a net of ImageNet's 1000, in wnid order; give one"):
        small.run("evaluate", EvaluateConfig(released=kind), inputs)


def test_an_empty_folder_is_refused(small: Small, data: dict[str, str], tmp_path: Path) -> None:
    inputs = {"checkpoint": small.teacher(data), "folder": str(tmp_path)}
    with pytest.raises(SourceError, match="no file there; give a folder with images below a folder for each class"):
        small.run("evaluate", EvaluateConfig(released="folder"), inputs)


def test_names_of_classes_are_a_benchmark_s_alone() -> None:
    with pytest.raises(ValueError, match="class_names: say what a released benchmark's folders are of; leave them out"):
        EvaluateConfig(class_names=("a", "b"))


def test_images_whose_classes_are_others_are_refused(
    small: Small, data: dict[str, str], picture: Callable[..., bytes], tmp_path: Path
) -> None:
    def folders(names: tuple[str, ...]) -> str:
        root = tmp_path / "-".join(names)
        for number in range(9):
            path = root / names[number % 3] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(number, number % 3))
        return small.prepare(str(root), labelled=True)

    named = folders(("ant", "bee", "cat"))
    checkpoint = small.teacher({"labelled": named, "validation": named})
    assert Artifact.open(small.run("evaluate", EvaluateConfig(), {"checkpoint": checkpoint, "images": named}))
    with pytest.raises(
        LabelError, match=r"class 1 is 'bug', of the checkpoint 'bee': must be the same in the same orde"
    ):
        small.run("evaluate", EvaluateConfig(), {"checkpoint": checkpoint, "images": folders(("ant", "bug", "cat"))})
    told = Told([])
    stages.evaluate(EvaluateConfig(), {"checkpoint": small.teacher(data), "images": named}, small.root, told)
    (text,) = [fields["text"] for event, fields in told.events if event == "message"]
    assert text == "the checkpoint's classes have no names; taken to be, in this order: ant, bee, cat"


def test_a_size_that_images_cannot_be_made_worse_at_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="resolution_px=4: Input should be greater than or equal to 8"):
        ModelEvaluation.of("c", "images").corrupt(Corruptions(), 4, 1.0)
