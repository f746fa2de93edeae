"""What a fit shows before its first step, and that showing it changes nothing."""

import base64
import io
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from noisystudent_core import stages
from noisystudent_core.config import FitConfig, InputNoise, PseudoLabelConfig
from noisystudent_core.evaluation import figures
from noisystudent_core.events import silent
from noisystudent_core.noise.randaugment import DIALECTS, apply_op
from noisystudent_core.stages.figures import show_noise
from tests.stages.small import FIT, STUDENT, Small, Told
from tests.training.small import LabelledImages, PseudoLabelledImages, resident

WriteSources = Callable[[str], dict[str, str]]
QUIET = InputNoise(num_ops=0, crop="translate", crop_padding_px=2, flip=False)
LOUD = InputNoise(dialect="google", magnitude=5, translate_const=12, cutout_const=6, crop="translate")


def noised(config: FitConfig, noise: InputNoise, pseudo_noise: InputNoise | None = None) -> FitConfig:
    changes: dict[str, Any] = {"noise": noise, "class_names": ("cat", "dog", "eel")}
    if config.pseudo_labels is not None:
        changes["pseudo_labels"] = PseudoLabelConfig(unlabelled_ratio=9, noise=pseudo_noise)
    return config.model_copy(update=changes)


@pytest.fixture
def labelled() -> LabelledImages:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return LabelledImages(images, torch.arange(12) % 3)


@pytest.fixture
def pseudo() -> PseudoLabelledImages:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=generator)
    probabilities = torch.rand(40, 3, generator=generator)
    return PseudoLabelledImages(images, probabilities / probabilities.sum(1, keepdim=True), torch.ones(40).long())


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Any, ...]]:
    """What each figure is drawn of; it is drawn all the same."""
    found: dict[str, tuple[Any, ...]] = {}

    def noting(name: str) -> Callable[..., bytes]:
        draw = getattr(figures, name)

        def note(*arguments: Any) -> bytes:
            found[name] = arguments
            return draw(*arguments)

        return note

    for name in ("noise_grid", "training_batch"):
        monkeypatch.setattr(figures, name, noting(name))
    return found


def shown(told: Told) -> dict[str, bytes]:
    return {fields["name"]: base64.b64decode(fields["png"]) for event, fields in told.events if event == "figure"}


def show(config: FitConfig, labelled: LabelledImages, pseudo: PseudoLabelledImages | None) -> dict[str, bytes]:
    told = Told([])
    show_noise(config, resident(config, labelled, pseudo), told)
    return shown(told)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_grid_has_every_operation_of_the_fit_s_dialect(
    labelled: LabelledImages, drawn: Mapping[str, Any], dialect: str
) -> None:
    noise = LOUD.model_copy(update={"dialect": dialect})
    config = noised(FIT, noise)
    png = show(config, labelled, None)["noise-grid"]
    image = resident(config, labelled, None).untouched()
    assert Image.open(io.BytesIO(png)).format == "PNG"
    title, subtitle, operations, rows = drawn["noise_grid"]
    assert dialect in title
    assert subtitle.endswith(f"draws 2 of {len(operations)} operations an image, at level 5")
    assert operations == list(DIALECTS[dialect].rules)
    last = "level 27 as 10" if dialect == "timm" else "level 27"
    assert list(rows) == ["untouched", "level 5", "level 9", last]
    assert torch.equal(rows["untouched"], image.expand(len(operations), -1, -1, -1))
    constants = {"dialect": dialect, "translate_const": 12, "cutout_const": 6}
    for level, images in zip((5, 9, 27), list(rows.values())[1:], strict=True):
        for name, noised_image in zip(operations, images, strict=True):
            assert torch.equal(noised_image, apply_op(image, name, level, **constants)[0])


def test_grid_is_of_an_image_as_large_as_the_model_s(labelled: LabelledImages, drawn: Mapping[str, Any]) -> None:
    wide = LabelledImages(torch.nn.functional.pad(labelled.images, (4, 4, 4, 4)), labelled.labels)
    config = noised(FIT, LOUD.model_copy(update={"crop": "resized"}))
    show(config, wide, None)
    image = resident(config, labelled, None).untouched()
    assert torch.equal(drawn["noise_grid"][3]["untouched"][0], image[0])


@pytest.mark.parametrize(
    ("noise", "pseudo_noise", "names"),
    [
        (LOUD, None, ["noise-grid", "training-batch"]),
        (QUIET, None, ["training-batch"]),
        (QUIET, LOUD, ["noise-grid", "training-batch"]),
        (LOUD, QUIET, ["noise-grid", "training-batch"]),
    ],
)
def test_batch_is_the_first_that_the_model_sees(
    labelled: LabelledImages,
    pseudo: PseudoLabelledImages,
    drawn: Mapping[str, Any],
    noise: InputNoise,
    pseudo_noise: InputNoise | None,
    names: list[str],
) -> None:
    config = noised(STUDENT, noise, pseudo_noise)
    assert list(show(config, labelled, pseudo)) == names
    batch = resident(config, labelled, pseudo)(0)
    assert batch.images.shape == (60, 3, 32, 32)  # 6 labelled ones and 9 times as many pseudo-labelled ones
    _, _, (first, second) = drawn["training_batch"]
    assert torch.equal(first.images, batch.images[:6])
    assert torch.equal(second.images, batch.images[6:30])
    assert (first.heading, first.notes) == ("Labelled: 6 of 6", ())
    assert second.heading == "Pseudo-labelled: 24 of 54, with the teacher's confidence"
    assert first.captions == names_of(batch.labels_L)
    assert batch.targets_UC is not None
    confidences, labels = batch.targets_UC[:24].max(1)  # soft labels at temperature 1: what the teacher said
    assert second.captions == names_of(labels)
    assert second.notes == [f"{100 * confidence:.0f}%" for confidence in confidences.tolist()]


def names_of(labels: Tensor) -> list[str]:
    return [("cat", "dog", "eel")[label] for label in labels.tolist()]


def test_classes_without_names_are_numbers(labelled: LabelledImages, drawn: Mapping[str, Any]) -> None:
    show(FIT, labelled, None)
    (group,) = drawn["training_batch"][2]
    assert set(group.captions) <= {"0", "1", "2"}


def test_nothing_is_drawn_where_nobody_listens(labelled: LabelledImages, drawn: Mapping[str, Any]) -> None:
    show_noise(FIT, resident(FIT, labelled, None), silent)
    assert drawn == {}


def test_figures_come_before_the_first_step_and_change_nothing(
    memory_root: str, write_sources: WriteSources, root: str
) -> None:
    small = Small(memory_root)
    sources = write_sources(memory_root)
    inputs = {split: small.prepare(sources[split], labelled=True) for split in ("labelled", "validation")}
    told, state = Told([]), torch.get_rng_state()
    heard = stages.fit(FIT, inputs, memory_root, told)
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    unheard = stages.fit(FIT, inputs, root)
    assert heard == unheard  # digests of weights and history with it
    assert torch.equal(torch.get_rng_state(), after)
    assert [event for event, _ in told.events][:3] == ["figure", "figure", "progress"]
    assert list(shown(told)) == ["noise-grid", "training-batch"]
