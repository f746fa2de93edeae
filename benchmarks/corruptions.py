"""Corruptions beside the published generator's: what they make of photographs, and how fast at 32 px.

    python -m benchmarks.corruptions --reference-python REFERENCE/bin/python   # 10 minutes; see corruptions_reference
    python -m benchmarks.corruptions --reference-python REFERENCE/bin/python --quick   # a trial of the speed

Pictures: 20 crops of 224 px from six photographs at each severity. Deterministic corruptions are compared pixel by
pixel, the others by statistics over many draws. Speed: images of 32 px on one core, in CPU seconds; ours and theirs
take turns. A promise that is missed gives exit status 1.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.corruptions_reference import DETERMINISTIC, DRAWS
from benchmarks.measuring import circumstances, smooth_fields, spread
from noisystudent_core.evaluation.corruptions import NAMES, SEVERITIES, Generator, Textures, corrupt, read_textures

# The promises
MOST_LEVELS = 2.0  # mean absolute difference of deterministic corruptions, grey levels
MOST_DEVIATION = 0.05  # of mean and variance of the others
LEAST_RATIO = 10.0  # images per second and core, ours to theirs: the median over corruptions

SCRIPT = Path(__file__).with_name("corruptions_reference.py")
SPEED_PX, NUM_IMAGES = 32, 256
Stored = Mapping[str, NDArray]


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """A corruption beside the reference, the worst of its severities: grey levels, or shares by statistic."""

    name: str
    levels: float | None = None  # mean absolute difference
    deviations: tuple[float, ...] = ()  # of mean, variance, neighbours' squared difference and change

    @property
    def missed(self) -> bool:
        """Whether this breaks a promise."""
        return (self.levels or 0) > MOST_LEVELS or any(value > MOST_DEVIATION for value in self.deviations[:2])

    def __str__(self) -> str:
        shares = [f"{value:.1%}" for value in self.deviations] or ["-"] * 4
        promise = f"<= {MOST_LEVELS:g} levels" if self.levels is not None else f"<= {MOST_DEVIATION:.0%}, both"
        levels = "-" if self.levels is None else f"{self.levels:.3f}"
        return f"| {' | '.join([self.name, levels, *shares, promise])} |"


def main(reference_python: str, quick: bool) -> None:
    """Print the tables; exit status 1 if a promise is missed."""
    torch.set_num_threads(1)
    print(f"{circumstances('torch', 'torchvision')}; imagecorruptions 1.1.2\n")
    textures = read_textures(asked(reference_python, "frost").strip())
    missed = 0
    if not quick:
        print("| corruption | difference | mean | variance | neighbours | change | promised |\n" + "| --- " * 7 + "|")
        for likeness in likenesses(reference_python, textures):
            print(likeness, flush=True)
            missed += likeness.missed
    for title, generator in {"32 px constants": None, "224 px constants, as theirs": "imagenet_c"}.items():
        print(f"\n{title}\n\n| corruption | ours, ms | theirs, ms | ours : theirs |\n| --- | --- | --- | --- |")
        median = statistics.median(speeds(reference_python, generator, 1 if quick else 5, textures))
        print(f"\nmedian {median:.1f}" + (f", promised: {LEAST_RATIO:g}" if generator is None else ""))
        missed += generator is None and median < LEAST_RATIO
    print(f"\n{missed or 'no'} promise{'s' * (missed > 1)} missed")
    sys.exit(missed > 0)


def asked(python: str, *arguments: str) -> str:
    """What the reference prints."""
    command = [python, "-I", "-W", "ignore", str(SCRIPT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def likenesses(reference_python: str, textures: Textures) -> Iterator[Likeness]:
    """Compare each corruption on the crops, at the worst severity of each figure."""
    with tempfile.TemporaryDirectory() as scratch:
        crops, theirs = f"{scratch}/crops.npz", f"{scratch}/theirs.npz"
        asked(reference_python, "crops", crops)
        asked(reference_python, "corrupt", crops, theirs)
        images = torch.from_numpy(np.load(crops)["images"]).permute(0, 3, 1, 2).contiguous()
        stored = np.load(theirs)
        for name in NAMES:
            if name in DETERMINISTIC:
                yield Likeness(name=name, levels=max(difference(images, name, s, stored) for s in SEVERITIES))
            else:
                found = [deviations(images, name, s, stored, textures, DRAWS[name]) for s in SEVERITIES]
                yield Likeness(name=name, deviations=tuple(max(column) for column in zip(*found, strict=True)))


def difference(images: Tensor, name: str, severity: int, stored: Stored) -> float:
    """Mean absolute difference in grey levels."""
    ours = corrupt(images, name, severity, torch.arange(len(images))).permute(0, 2, 3, 1).numpy()
    return float(np.abs(ours.astype(int) - stored[f"{name}_{severity}"]).mean())


def deviations(
    images: Tensor, name: str, severity: int, stored: Stored, textures: Textures, num_draws: int
) -> list[float]:
    """Shares by which our `figures` differ from theirs, over `num_draws` of each image."""
    total = np.zeros(5)
    for draw in range(num_draws):
        seeds = torch.arange(len(images)) + draw * len(images)
        total += sums(corrupt(images, name, severity, seeds, frost_textures=textures), images)
    ours, theirs = (figures(each) for each in (total, stored[f"{name}_{severity}"]))
    return (np.abs(ours / theirs - 1)).tolist()


def sums(corrupted: Tensor, images: Tensor) -> NDArray[np.float64]:
    """As the reference's `statistics`, summed over a batch: [5]."""
    levels = corrupted.float()
    down, right = levels.diff(dim=2)[..., :-1], levels.diff(dim=3)[..., :-1, :]
    means = [levels, levels**2, down**2 + right**2, (levels - images).abs()]
    return np.array([float(each.mean((1, 2, 3)).sum()) for each in means] + [float(len(images))])


def figures(total: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean, variance, neighbours' squared difference and change, from sums [5]."""
    mean, square, neighbours, change = total[:4] / total[4]
    return np.array([mean, square - mean**2, neighbours, change])


def speeds(reference_python: str, generator: Generator | None, num_rounds: int, textures: Textures) -> Iterator[float]:
    """Print each corruption's milliseconds per image; yield ours to theirs, the median over rounds."""
    images = smooth_fields(NUM_IMAGES, SPEED_PX)
    with tempfile.TemporaryDirectory() as scratch:
        np.savez(f"{scratch}/images.npz", images=images.permute(0, 2, 3, 1).numpy())
        rounds = []
        for number in range(num_rounds):
            theirs = json.loads(asked(reference_python, "speed", f"{scratch}/images.npz"))
            rounds.append({name: (seconds(images, name, generator, number, textures), theirs[name]) for name in NAMES})
    for name in NAMES:
        ours, theirs = (statistics.median(each[name][side] for each in rounds) * 1000 for side in (0, 1))
        ratios = [each[name][1] / each[name][0] for each in rounds]
        print(f"| {name} | {ours:.4f} | {theirs:.4f} | {spread(ratios, '.1f')} |")
        yield statistics.median(ratios)


def seconds(images: Tensor, name: str, generator: Generator | None, number: int, textures: Textures) -> float:
    """CPU seconds per image, the mean over severities; tables are made before."""
    seeds = torch.arange(len(images)) + number * len(images)
    took = 0.0
    for severity in SEVERITIES:
        for is_timed in (False, True):
            started = time.process_time()
            corrupt(images, name, severity, seeds, frost_textures=textures, generator=generator)
            took += is_timed * (time.process_time() - started)
    return took / len(SEVERITIES) / len(images)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference-python", required=True, help="an interpreter that has imagecorruptions")
    parser.add_argument("--quick", action="store_true", help="the speed alone, once")
    main(**vars(parser.parse_args()))
