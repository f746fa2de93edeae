"""Corruptions of photographs at 224 px beside those of `imagecorruptions` 1.1.2, whose results are the fixtures.

`benchmarks/corruptions_reference.py` made them, `benchmarks/corruptions.py` compares 20 crops of six photographs.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.corruptions import deviations
from benchmarks.corruptions_reference import DETERMINISTIC, FREE, STRIDE, pattern
from noisystudent_core.data.images import decode_image
from noisystudent_core.evaluation.corruptions import NAMES, SEVERITIES, Textures, corrupt

FIXTURES = Path(__file__).parent / "fixtures"
NUM_DRAWS = {"motion_blur": 8, "snow": 4, "frost": 12, "fog": 24}  # of each photograph; of the others 1


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "imagecorruptions.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    return torch.stack([decode_image((FIXTURES / f"{name}.png").read_bytes()) for name in FREE])


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_deterministic_corruption_is_the_published_one(
    name: str, photographs: Tensor, stored: dict[str, np.ndarray]
) -> None:
    """The promise is 2 grey levels; only what a float rounds otherwise is off, by one."""
    for severity in SEVERITIES:
        ours = corrupt(photographs, name, severity, torch.arange(len(photographs))).permute(0, 2, 3, 1).numpy()
        differences = np.abs(ours[:, ::STRIDE, ::STRIDE].astype(int) - stored[f"{name}_{severity}"])
        assert differences.max() <= 1 and differences.mean() < 0.05
        assert np.abs(ours - photographs.permute(0, 2, 3, 1).numpy().astype(int)).mean() > 1


@pytest.mark.parametrize("name", [name for name in NAMES if name not in DETERMINISTIC])
def test_a_random_corruption_is_distributed_as_the_published_one(
    name: str, photographs: Tensor, stored: dict[str, np.ndarray]
) -> None:
    """Mean and variance within 5%; so are squared differences of neighbours, and the change of a value."""
    textures = Textures([torch.from_numpy(pattern(number)).permute(2, 0, 1) for number in range(5)])
    for severity in (1, 3, 5):
        assert max(deviations(photographs, name, severity, stored, textures, NUM_DRAWS.get(name, 1))) < 0.05
