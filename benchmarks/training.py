"""Training: what the loop costs beside its bare step, and the same step fed by timm's own loader.

    python -m benchmarks.training            # or `make bench`: a few minutes, on an idle machine
    python -m benchmarks.training --quick    # a trial in seconds

The bare step is noise and `train_step` on images that lie ready, the same net, batch and settings, with nothing around
it. The loop is the product's: order, labels, schedule, seeds, reports, the watch for divergence. timm's loader reads
PIL images with its RandAugment (`rand-m9-n2`) in a process per core, ours draws the same dialect on the batch. All take
turns; a ratio is that of two neighbours. Images are random. A promise that is missed gives exit status 1.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import timm.data
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from benchmarks.measuring import all_cores, circumstances, cores, in_turns, smooth_fields, spread
from noisystudent_core.config import FitConfig, InputNoise, ModelConfig, PseudoLabelConfig, TrainConfig
from noisystudent_core.data.mixing import image_seeds
from noisystudent_core.data.streams import ResidentStream, Share
from noisystudent_core.events import silent
from noisystudent_core.models.architectures import Normalised, create_model, device
from noisystudent_core.noise.input_noise import InputNoiser
from noisystudent_core.noise.model_noise import noise_model
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.training import loop
from noisystudent_core.training.batches import Batches
from noisystudent_core.training.inputs import labelled_order, unlabelled_order
from noisystudent_core.training.step import Batch, TrainState, train_step

LEAST_SHARE = 0.95  # the promise: bare step to loop, in time

NUM_CLASSES, NUM_IMAGES = 10, 4096
NOISE = InputNoise(dialect="timm", num_ops=2, magnitude=9, crop="translate", crop_padding_px=4, flip=True)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A net, images of one size, and a step's labelled and unlabelled images."""

    model: str
    size_px: int
    batch_size: int
    ratio: int
    num_steps: int  # timed together

    def config(self, num_steps: int, *, student: bool) -> FitConfig:
        """A student's fit, or one on as many labelled images a step."""
        return FitConfig(
            num_classes=NUM_CLASSES,
            model=ModelConfig(name=self.model, resolution_px=self.size_px, crop_fraction=1.0, dropout=0.1),
            train=TrainConfig(
                epochs=None,
                steps=num_steps,
                batch_size=self.batch_size if student else self.images_per_step,
                num_validations=1,
                log_every_steps=20,
            ),
            noise=NOISE,
            pseudo_labels=PseudoLabelConfig(unlabelled_ratio=self.ratio) if student else None,
        )

    @property
    def images_per_step(self) -> int:
        """Labelled and unlabelled images of a step."""
        return self.batch_size * (1 + self.ratio)


CASES = (
    Case(model="test_resnet", size_px=32, batch_size=64, ratio=3, num_steps=30),  # the digits' students
    Case(model="cifar_resnet20", size_px=32, batch_size=64, ratio=3, num_steps=5),
)

ON_A_GPU = (Case(model="tf_efficientnet_b0", size_px=224, batch_size=64, ratio=3, num_steps=20),)  # in bfloat16


@dataclass(frozen=True)
class Row:
    """Two ways to do the same steps: images per second, and the ratio of their times by round."""

    case: Case
    what: str
    ours: float
    theirs: float
    ratios: list[float]
    least: float | None

    @property
    def missed(self) -> bool:
        """Whether this breaks a promise."""
        return self.least is not None and statistics.median(self.ratios) < self.least

    def __str__(self) -> str:
        promise = "-" if self.least is None else f">= {self.least:g}"
        ratio = spread(self.ratios, ".3f")
        return f"| {self.case.model} | {self.what} | {self.ours:,.0f} | {self.theirs:,.0f} | {ratio} | {promise} |"


def main(quick: bool) -> None:
    """Print the table; exit status 1 if the promise is missed."""
    num_rounds = 2 if quick else 7
    print(f"{circumstances('torch', 'timm')}, all {cores(all_cores())}; {CASES[0].images_per_step} images a step\n")
    print("| net | compared with | loop, images/s | the other, images/s | loop : the other | promised |")
    print("| --- | --- | --- | --- | --- | --- |")
    missed = 0
    for case in ON_A_GPU if torch.cuda.is_available() else CASES:
        for row in rows(case, 4 if quick else case.num_steps, num_rounds):
            print(row, flush=True)
            missed += row.missed
    print(f"\n{missed or 'no'} promise{'s' * (missed > 1)} missed; ratios are medians (lowest to highest)")
    sys.exit(missed > 0)


def rows(case: Case, num_steps: int, num_rounds: int) -> Iterator[Row]:
    """The loop beside the bare step of a student's fit, and beside timm's loader on labelled images."""
    yield compare(
        case, "bare step", looped(case, num_steps, student=True), bare(case, num_steps), num_rounds, LEAST_SHARE
    )
    alone = looped(case, num_steps, student=False)
    yield compare(case, "timm's loader", alone, by_timms_loader(case, num_steps), num_rounds, None)


def compare(
    case: Case,
    what: str,
    ours: Callable[[int], int],
    theirs: Callable[[int], int],
    num_rounds: int,
    least: float | None,
) -> Row:
    """Time both in turns; each returns its number of steps."""
    rounds = in_turns([ours, theirs], num_rounds, device())
    images = ours(0) * case.images_per_step
    speeds = [images / statistics.median(times) for times in zip(*rounds, strict=True)]
    return Row(case, what, speeds[0], speeds[1], [their_s / our_s for our_s, their_s in rounds], least)


def start(config: FitConfig) -> TrainState:
    """A fresh net on the device."""
    net = create_model(config.model, config.num_classes, config.seed, config.train.batch_norm_momentum)
    noise_model(net, config.model.dropout, config.model.stochastic_depth)
    return loop.start(Normalised(net).to(device()), config)


def images_of(case: Case) -> tuple[Tensor, Tensor]:
    """Random images and labels, on the device."""
    labels = torch.arange(NUM_IMAGES) % NUM_CLASSES
    return smooth_fields(NUM_IMAGES, case.size_px).to(device()), labels.to(device())


def looped(case: Case, num_steps: int, *, student: bool) -> Callable[[int], int]:
    """The product's loop over `num_steps`, from a fresh optimiser; nothing is validated but a constant."""
    config = case.config(num_steps, student=student)
    images, labels = images_of(case)
    labelled = ResidentStream(images, labels, labelled_order(config, [NUM_IMAGES]), Share())
    soft = torch.full((NUM_IMAGES, NUM_CLASSES), 1 / NUM_CLASSES, device=device())
    unlabelled = None
    if student:
        unlabelled = ResidentStream(images, soft, unlabelled_order(config, [NUM_IMAGES], None), Share())
    batches = Batches(config, labelled, unlabelled)
    state = start(config)

    def run(number: int) -> int:
        state.step = 0
        with tempfile.TemporaryDirectory() as folder:
            loop.fit(state, config, batches, NUM_IMAGES, lambda net: {"constant": 0.0}, silent, Folder.at(folder))
        return num_steps

    return run


def bare(case: Case, num_steps: int) -> Callable[[int], int]:
    """Noise and the step, on the same images again and again."""
    config = case.config(num_steps, student=True)
    images, labels = (found[: case.images_per_step] for found in images_of(case))
    soft = torch.full((case.batch_size * case.ratio, NUM_CLASSES), 1 / NUM_CLASSES, device=device())
    noiser, state = InputNoiser(config.noise, case.size_px), start(config)
    seeds = image_seeds(0, 0, len(images))

    def run(number: int) -> int:
        for _ in range(num_steps):
            batch = Batch(noiser(images, seeds), labels[: case.batch_size], soft)
            train_step(state, batch, config.train, 0.01)
        return num_steps

    return run


class Pictures(Dataset):
    """The same images as PIL has them, for timm."""

    transform: Callable[[Image.Image], object] | None = None  # timm puts its own here

    def __init__(self, case: Case) -> None:
        images, labels = images_of(case)
        self._pictures = [Image.fromarray(image.permute(1, 2, 0).cpu().numpy()) for image in images]
        self._labels = labels.tolist()

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> tuple[object, int]:
        assert self.transform is not None
        return self.transform(self._pictures[index]), self._labels[index]


def by_timms_loader(case: Case, num_steps: int) -> Callable[[int], int]:
    """timm's loader, its uint8 batches given to the same step."""
    config = case.config(num_steps, student=False)
    loader = timm.data.create_loader(
        Pictures(case),
        (3, case.size_px, case.size_px),
        case.images_per_step,
        is_training=True,
        auto_augment="rand-m9-n2",
        num_workers=all_cores(),
        device=device(),
        persistent_workers=True,
    ).loader  # before its normalisation, which our net does itself
    state, batches = start(config), iter(loader)

    def run(number: int) -> int:
        nonlocal batches
        for _ in range(num_steps):
            found = next(batches, None)
            if found is None:
                batches = iter(loader)
                found = next(batches)
            images, labels = (tensor.to(device()) for tensor in found)
            train_step(state, Batch(images, labels, None), config.train, 0.01)
        return num_steps

    return run


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    main(**vars(parser.parse_args()))
