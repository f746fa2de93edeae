"""The share of images and the band of confidence that the studies look at."""

import numpy as np
import pytest

from noisystudent_core.config.settings import SelectConfig
from noisystudent_core.data.schemas import SELECTION, from_bytes
from noisystudent_core.pseudo_labels.select import select_images
from noisystudent_core.storage.manifest import Artifact, Manifest
from noisystudent_core.storage.stage import stage
from tests.pseudo_labels.test_select import FOLDERS, Row, image_id, write_images, write_predictions

ROWS = [Row(image_id(number), number % 2, (number % 100) / 100) for number in range(2000)]


@pytest.fixture(scope="module")
def inputs() -> dict[str, str]:
    parts = [ROWS[:700], ROWS[700:]]
    return {"predictions": write_predictions(parts), "images": write_images(parts)}


def selected(inputs: dict[str, str], **settings: float) -> tuple[Manifest, dict[bytes, float]]:
    url = next(FOLDERS)
    config = SelectConfig(threshold=0.0, balance="none").model_copy(update=settings)
    manifest = stage(select_images)(config, inputs, url, out=url)
    rows = [
        row for part in manifest.parts for row in from_bytes(Artifact.open(url).read(part), SELECTION, "it").to_pylist()
    ]
    return manifest, {row["image_id"]: row["confidence"] for row in rows}


def test_the_band_holds_its_upper_end_and_not_its_lower(inputs: dict[str, str]) -> None:
    manifest, found = selected(inputs, threshold=0.2, max_confidence=0.4)
    expected = {row.image_id for row in ROWS if 20 < round(100 * (row.confidence or 0)) <= 40}
    assert found.keys() == expected
    assert manifest.drops == {"above_max_confidence": 59 * 20, "below_threshold": 21 * 20}


def test_fractions_are_drawn_whatever_the_confidence_and_smaller_ones_are_part_of_larger(
    inputs: dict[str, str],
) -> None:
    whole = selected(inputs)[1]
    manifest, half = selected(inputs, fraction=0.5)
    quarter = selected(inputs, fraction=0.25)[1]
    assert quarter.keys() < half.keys() < whole.keys()
    assert manifest.drops["not_in_fraction"] == pytest.approx(1000, abs=4 * np.sqrt(500))
    assert np.mean(list(half.values())) == pytest.approx(np.mean(list(whole.values())), abs=0.04)
    assert manifest.drops["not_in_fraction"] + manifest.drops["below_threshold"] + len(half) == 2000


def test_another_seed_draws_others(inputs: dict[str, str]) -> None:
    assert selected(inputs, fraction=0.5)[1].keys() != selected(inputs, fraction=0.5, seed=1)[1].keys()
