"""RandAugment: images per second against timm's and torchvision's, and on a GPU its share of a training step.

    python -m benchmarks.noise            # or `make bench`: a few minutes, on an idle machine
    python -m benchmarks.noise --quick    # a trial in seconds

Ours takes a uint8 batch. Theirs takes each uint8 image, timm's by way of PIL and back, and puts the results into a
batch. On all cores ours has torch's threads, theirs a pool of processes on shared memory, as a data loader would; its
start is not timed. Ours and theirs take turns, with new draws each time; a ratio is that of two neighbours. Images are
smooth random fields, with structure at every scale. A promise that is missed gives exit status 1.
"""

import argparse
import multiprocessing
import random
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor, nn
from torchvision.transforms import v2

from benchmarks.measuring import Pass, all_cores, circumstances, cores, in_turns, smooth_fields, spread
from noisystudent_core.noise.randaugment import RandAugment

# The promises
LEAST_RATIO = {32: 3.0, 224: 1.0}  # ours to timm's images per second on one core, by size in pixels
MOST_SHARE = 0.1  # noise to training step of MODEL on one GPU

MODEL, MODEL_PX, MODEL_BATCH = "tf_efficientnet_b0", 224, 256
NUM_STEPS = 5  # one after another, timed together
NUM_OPS = 2
MAGNITUDE_OF = {"timm": 9, "torchvision": 9, "google": 27}
SLICES = 4  # of the batch per process, taken as processes become free

Transform = Callable[[Tensor], Tensor]  # uint8 [3, S, S] to the same
Noise = Callable[[int], Tensor]  # a batch noised with the draws of this number


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured: images in a batch by size in pixels, and rounds of ours and theirs."""

    num_images: dict[int, int]
    num_rounds: int


FULL = Plan(num_images={32: 1024, 224: 256}, num_rounds=21)
QUICK = Plan(num_images={32: 256, 224: 16}, num_rounds=3)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A dialect at one size in one place: images per second, and ours to theirs by round, where there is a theirs."""

    size_px: int
    place: str
    dialect: str
    ours: float
    theirs: float | None
    ratios: list[float]

    @property
    def least(self) -> float | None:
        """The ratio that is promised."""
        return LEAST_RATIO.get(self.size_px) if (self.place, self.dialect) == ("1 core", "timm") else None

    @property
    def missed(self) -> bool:
        """Whether this breaks a promise."""
        return self.least is not None and statistics.median(self.ratios) < self.least

    def __str__(self) -> str:
        theirs = "-" if self.theirs is None else f"{self.theirs:,.0f}"
        ratio = spread(self.ratios, ".2f") if self.ratios else "-"
        promise = "-" if self.least is None else f">= {self.least:g}"
        return (
            f"| {self.size_px} px | {self.place} | {self.dialect} | {self.ours:,.0f} | {theirs} | {ratio} | {promise} |"
        )


@dataclass(frozen=True, kw_only=True)
class Share:
    """Noise of one dialect beside a training step: milliseconds, and noise to step by round.

    `added_ms`: what a step takes longer where noise comes before each; less than `noise_ms` where the two overlap.
    """

    dialect: str
    compiled: bool
    noise_ms: float
    step_ms: float
    added_ms: float
    shares: list[float]

    @property
    def missed(self) -> bool:
        """Whether this breaks a promise."""
        return statistics.median(self.shares) > MOST_SHARE

    def __str__(self) -> str:
        how = "compiled" if self.compiled else "eager"
        times = f"{self.noise_ms:.1f} | {self.step_ms:.1f} | {self.added_ms:.1f}"
        return f"| {self.dialect} | {how} | {times} | {spread(self.shares, '.1%')} | <= {MOST_SHARE:.0%} |"


def main(quick: bool) -> None:
    """Print the tables; exit status 1 if a promise is missed."""
    plan = QUICK if quick else FULL
    print(f"{circumstances('torch', 'torchvision', 'timm', 'pillow')}\n")
    missed = table(["images", "on", "dialect", "ours, images/s", "theirs, images/s", "ours : theirs"], rows(plan))
    if torch.cuda.is_available():
        print(f"\n{MODEL}, {MODEL_PX} px, batch of {MODEL_BATCH}, bf16, channels_last\n")
        titles = ["dialect", "step", "noise, ms", "step, ms", "added to a step, ms", "noise : step"]
        missed += table(titles, shares(torch.device("cuda"), plan.num_rounds))
    else:
        print("\nno GPU: nothing measured there")
    print(f"\n{missed or 'no'} promise{'s' * (missed > 1)} missed; ratios are medians (lowest to highest)")
    sys.exit(missed > 0)


def table(titles: list[str], lines: Iterator[Row] | Iterator[Share]) -> int:
    """Print a table as it is measured; the number of promises missed."""
    print(f"| {' | '.join([*titles, 'promised'])} |")
    print(f"| {' | '.join(['---'] * (len(titles) + 1))} |")
    missed = 0
    for line in lines:
        print(line, flush=True)
        missed += line.missed
    return missed


def rows(plan: Plan) -> Iterator[Row]:
    """Measure each dialect, at each size, on one core, on all cores, and on a GPU where there is one."""
    for size_px, num_images in plan.num_images.items():
        images = smooth_fields(num_images, size_px)
        for num_cores in sorted({1, all_cores()}):
            torch.set_num_threads(num_cores)
            for dialect in MAGNITUDE_OF:
                with theirs_on_cores(dialect, images, num_cores) as theirs:
                    yield compare(dialect, images, theirs, plan.num_rounds, cores(num_cores))
        if torch.cuda.is_available():
            on_device = images.cuda()
            for dialect in MAGNITUDE_OF:  # Pillow knows no GPU
                theirs = one_by_one(torchvision_transform(), on_device) if dialect == "torchvision" else None
                yield compare(dialect, on_device, theirs, plan.num_rounds, torch.cuda.get_device_name())


def compare(dialect: str, images: Tensor, theirs: Noise | None, num_rounds: int, place: str) -> Row:
    """Measure ours and theirs in turns, or ours alone."""
    both: list[Pass] = [ours(dialect, images)] if theirs is None else [ours(dialect, images), theirs]
    rounds = in_turns(both, num_rounds, images.device)
    speeds = [len(images) / statistics.median(times) for times in zip(*rounds, strict=True)]
    return Row(
        size_px=images.shape[-1],
        place=place,
        dialect=dialect,
        ours=speeds[0],
        theirs=None if theirs is None else speeds[1],
        ratios=[] if theirs is None else [their_s / our_s for our_s, their_s in rounds],
    )


def ours(dialect: str, images: Tensor) -> Noise:
    """Our dialect, on the whole batch, wherever it is."""
    augment = RandAugment(dialect, NUM_OPS, MAGNITUDE_OF[dialect])
    return lambda number: augment(images, torch.arange(len(images)) + number * len(images))


def timm_transform() -> Transform:
    """timm's own, between uint8 tensors: the cheapest way to PIL and back."""
    transform = rand_augment_transform(f"rand-m{MAGNITUDE_OF['timm']}-n{NUM_OPS}")

    def by_pil(image: Tensor) -> Tensor:
        noised = transform(Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()))
        return torch.from_numpy(np.array(noised)).permute(2, 0, 1)

    return by_pil


def torchvision_transform() -> Transform:
    """torchvision's own, on tensors."""
    return v2.RandAugment(num_ops=NUM_OPS, magnitude=MAGNITUDE_OF["torchvision"], num_magnitude_bins=31)


TRANSFORMS: dict[str, Callable[[], Transform]] = {"timm": timm_transform, "torchvision": torchvision_transform}


def one_by_one(transform: Transform, images: Tensor, results: Tensor | None = None) -> Noise:
    """A transform of single images, on each image of a batch."""
    batch = torch.empty_like(images) if results is None else results

    def noise(number: int) -> Tensor:
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(number)
        for image, result in zip(images, batch, strict=True):
            result.copy_(transform(image))
        return batch

    return noise


@contextmanager
def theirs_on_cores(dialect: str, images: Tensor, num_cores: int) -> Iterator[Noise | None]:
    """The other library, in this process on one core, else in a process per core; None where there is no other."""
    if dialect not in TRANSFORMS:
        yield None
    elif num_cores == 1:
        yield one_by_one(TRANSFORMS[dialect](), images)
    else:
        results = torch.empty_like(images).share_memory_()
        parts = list(zip(images.chunk(SLICES * num_cores), results.chunk(SLICES * num_cores), strict=True))
        arguments = (TRANSFORMS[dialect], parts)
        with multiprocessing.get_context("fork").Pool(num_cores, start_process, arguments) as pool:

            def noise(number: int) -> Tensor:
                numbers = range(number * len(parts), (number + 1) * len(parts))
                pool.starmap(noise_part, enumerate(numbers), chunksize=1)
                return results

            yield noise


_noises: list[Noise] = []  # in a process of the pool: one for each part of the batch


def start_process(make: Callable[[], Transform], parts: list[tuple[Tensor, Tensor]]) -> None:
    """Make a process of the pool ready: one thread, and a transform of its own."""
    torch.set_num_threads(1)
    transform = make()
    _noises[:] = [one_by_one(transform, images, results) for images, results in parts]


def noise_part(part: int, number: int) -> None:
    """Noise a part of the batch, in a process of the pool."""
    _noises[part](number)


def shares(
    device: torch.device,
    num_rounds: int,
    model: str = MODEL,
    size_px: int = MODEL_PX,
    num_images: int = MODEL_BATCH,
    compiled: tuple[bool, ...] = (False, True),
) -> Iterator[Share]:
    """Measure the noise of a batch, a training step on it, and one after the other, in turns."""
    torch.backends.cudnn.benchmark = True
    images = smooth_fields(num_images, size_px).to(device)
    for is_compiled in compiled:
        step = training_step(timm.create_model(model, num_classes=1000).to(device), images, is_compiled)
        for dialect in MAGNITUDE_OF:
            noise = ours(dialect, images)
            works = [repeated(noise), repeated(step), repeated(noise, step)]
            rounds = in_turns(works, num_rounds, device)
            noise_s, step_s, both_s = (statistics.median(times) / NUM_STEPS for times in zip(*rounds, strict=True))
            yield Share(
                dialect=dialect,
                compiled=is_compiled,
                noise_ms=noise_s * 1000,
                step_ms=step_s * 1000,
                added_ms=(both_s - step_s) * 1000,
                shares=[fast / slow for fast, slow, _ in rounds],
            )


def repeated(*works: Pass) -> Pass:
    """The works in order, `NUM_STEPS` times."""
    return lambda number: [work(number * NUM_STEPS + step) for step in range(NUM_STEPS) for work in works]


def training_step(net: nn.Module, images: Tensor, compiled: bool) -> Pass:
    """Forward, loss, backward and update; the images are normalised beforehand."""
    inputs = images.float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(len(images), device=images.device) % 1000
    net = net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    forward = torch.compile(net) if compiled else net

    def step(_: int) -> None:
        with torch.autocast(images.device.type, torch.bfloat16):
            loss = F.cross_entropy(forward(inputs), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few images and rounds")
    main(**vars(parser.parse_args()))
