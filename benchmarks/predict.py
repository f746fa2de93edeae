"""Labelling: images per second from encoded images to predictions, beside what decoding and the bare net allow.

    python -m benchmarks.predict            # or `make bench`: some minutes, on an idle machine
    python -m benchmarks.predict --quick    # a trial in seconds

JPEGs of 500 x 375 px become labels of a net at 224 px. On a CPU the roofline is 1 / (1/f + 1/d): f is the bare net, in
the form and batch that labels fastest here, and d bare decoding and resizing, each on all cores. On a GPU the pipeline
is compared with the bare net, compiled, in bfloat16, with images decoded by the CPU's cores and by the GPU itself. All
take turns; a ratio is that of one round. Pictures are random, smooth and with edges, and compress as photographs do. A
promise that is missed gives exit status 1.
"""

import argparse
import io
import statistics
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import pyarrow as pa
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from benchmarks.measuring import Pass, all_cores, circumstances, cores, in_turns, spread
from noisystudent_core.config import PredictConfig
from noisystudent_core.data.images import decode_batch
from noisystudent_core.data.ingest import image_id
from noisystudent_core.models.architectures import Normalised, device
from noisystudent_core.pseudo_labels.forward import Forward
from noisystudent_core.pseudo_labels.pipeline import Labeller

LEAST_SHARE = 0.85  # the promise on a CPU: labelling to the roofline
GPU_AIM = 0.9  # of the bare net; no promise, as it needs cores or hardware decoders enough

HEIGHT, WIDTH, QUALITY = 375, 500, 90
SIZE_PX, CROP_FRACTION = 224, 0.875
CPU_MODEL, GPU_MODEL = "mobilenetv3_small_050", "efficientnet_b0"
NUM_PICTURES = 48  # that differ
SLICE = 8  # images that a thread takes at a time


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How many images are labelled in a round, in how many parts, and how many rounds."""

    num_images: int
    num_parts: int
    num_rounds: int


ON_CPU = Plan(num_images=2400, num_parts=4, num_rounds=7)
ON_GPU = Plan(num_images=48_000, num_parts=6, num_rounds=5)
QUICK = Plan(num_images=192, num_parts=2, num_rounds=2)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to label: images per second of what bounds it and of itself, and its share of the bound by round."""

    what: str
    forward: float
    decode: float | None  # None: not part of the bound
    labelling: float
    shares: list[float]
    least: float | None

    @property
    def missed(self) -> bool:
        """Whether this breaks the promise."""
        return self.least is not None and statistics.median(self.shares) < self.least

    def __str__(self) -> str:
        decode = "-" if self.decode is None else f"{self.decode:,.0f}"
        promise = "-" if self.least is None else f">= {self.least:g}"
        share = spread(self.shares, ".3f")
        return f"| {self.what} | {self.forward:,.0f} | {decode} | {self.labelling:,.0f} | {share} | {promise} |"


def main(quick: bool) -> None:
    """Print the table; exit status 1 if the promise is missed."""
    on_gpu = torch.cuda.is_available()
    images = photographs(NUM_PICTURES)
    sizes = f"{WIDTH} x {HEIGHT} px, {sum(map(len, images)) / len(images) / 1000:.0f} kB, to {SIZE_PX} px"
    print(f"{circumstances('torch', 'torchvision', 'timm')}; JPEG {sizes}\n")
    print("| labelling | bare net, images/s | bare decoding, images/s | labelling, images/s | share | promised |")
    print("| --- | --- | --- | --- | --- | --- |")
    rows = gpu_rows(images, QUICK if quick else ON_GPU) if on_gpu else cpu_rows(images, QUICK if quick else ON_CPU)
    missed = 0
    for row in rows:
        print(row, flush=True)
        missed += row.missed
    bound = f"the bare net's, aim {GPU_AIM:g}" if on_gpu else "the roofline 1 / (1/f + 1/d)"
    print(f"\n{missed or 'no'} promise{'s' * (missed > 1)} missed; share of {bound}: median (lowest to highest)")
    sys.exit(missed > 0)


def cpu_rows(images: list[bytes], plan: Plan, num_cores: int | None = None) -> Iterator[Row]:
    """Labelling by threads of one process, and with decoding processes, against the roofline."""
    num_cores = num_cores or all_cores()
    net, tables = bare_net(CPU_MODEL), parts(images, plan)
    with ExitStack() as stack:
        config = PredictConfig()
        ways = {
            f"{CPU_MODEL}, {cores(num_cores)}": opened(net, config),
            f"the same, {num_cores} decoding processes": Labeller(
                Forward(net, config, SIZE_PX), config, SIZE_PX, CROP_FRACTION, num_cores
            ),
        }
        works = [
            on_threads(forwarding(net, config), plan.num_images, num_cores),
            on_threads(decoding(images), plan.num_images, num_cores),
            *(labelling(stack.enter_context(way), tables) for way in ways.values()),
        ]
        rounds = in_turns(works, plan.num_rounds, device())
    speeds = [plan.num_images / statistics.median(times) for times in zip(*rounds, strict=True)]
    for place, what in enumerate(ways):
        shares = [(times[0] + times[1]) / times[2 + place] for times in rounds]  # 1/f + 1/d is the sum of the times
        least = LEAST_SHARE if place == 0 else None
        yield Row(
            what=what, forward=speeds[0], decode=speeds[1], labelling=speeds[2 + place], shares=shares, least=least
        )


def gpu_rows(images: list[bytes], plan: Plan, model: str = GPU_MODEL) -> Iterator[Row]:
    """Labelling with decoding on the CPU and on the GPU, against the bare compiled net in bfloat16."""
    net, tables = bare_net(model), parts(images, plan)
    with ExitStack() as stack:
        works = [bare_forward(net, PredictConfig(compile=True), plan.num_images)]
        ways = {f"{model}, decoding: {cores(all_cores())}": "cpu", f"{model}, decoding: the GPU": "gpu"}
        for decoder in ways.values():
            config = PredictConfig.model_validate({"compile": True, "decoder": decoder})
            works.append(labelling(stack.enter_context(opened(net, config)), tables))
        works.append(on_threads(decoding(images), plan.num_images, all_cores()))
        rounds = in_turns(works, plan.num_rounds, torch.device("cpu"))  # each work ends with its results on the host
    speeds = [plan.num_images / statistics.median(times) for times in zip(*rounds, strict=True)]
    for place, (what, decoder) in enumerate(ways.items(), start=1):
        shares = [times[0] / times[place] for times in rounds]
        decode = speeds[-1] if decoder == "cpu" else None
        yield Row(what=what, forward=speeds[0], decode=decode, labelling=speeds[place], shares=shares, least=None)


def photographs(number: int) -> list[bytes]:
    """JPEGs of made-up scenes: shaded surfaces with sharp borders, texture at every scale, and a little grain."""
    return [_jpeg(_scene(torch.Generator().manual_seed(seed))) for seed in range(number)]


def parts(images: list[bytes], plan: Plan) -> list[pa.Table]:
    """Tables of so many images in all, the same ones again and again."""
    rows = plan.num_images // plan.num_parts
    tables = []
    for part in range(plan.num_parts):
        found = [images[(part * rows + row) % len(images)] for row in range(rows)]
        ids = pa.array(map(image_id, found), pa.binary(16))
        tables.append(pa.table({"image_id": ids, "image": found, "reason": pa.nulls(rows, pa.string())}))
    return tables


def bare_net(model: str) -> Normalised:
    """A net with random weights, on the device."""
    torch.manual_seed(0)
    return Normalised(timm.create_model(model, num_classes=1000)).to(device()).eval()


def opened(net: nn.Module, config: PredictConfig, num_decoders: int | None = None) -> Labeller:
    """What labels with the net as its stage does."""
    return Labeller(Forward(net, config, SIZE_PX), config, SIZE_PX, CROP_FRACTION, num_decoders)


def labelling(labeller: Labeller, tables: list[pa.Table]) -> Pass:
    """The whole pipeline, from encoded images to prediction tables."""
    reads = [(part, lambda table=table: table) for part, table in enumerate(tables)]

    def work(_: int) -> None:
        for _, found in labeller.label(reads):
            if isinstance(found, Exception):
                raise found

    return work


def forwarding(net: nn.Module, config: PredictConfig) -> Callable[[int], int]:
    """The net on one batch that lies ready, in the product's best form; returns the number of images."""
    forward = Forward(net, config, SIZE_PX)
    images = _noise(forward.batch_size)

    def work(_: int) -> int:
        return len(forward(images))

    return work


def decoding(images: list[bytes]) -> Callable[[int], int]:
    """Decode and resize a slice of the images; returns how many."""

    def work(number: int) -> int:
        found = [images[(number * SLICE + place) % len(images)] for place in range(SLICE)]
        return len(decode_batch(found, SIZE_PX, CROP_FRACTION)[0])

    return work


def on_threads(step: Callable[[int], int], num_images: int, num_threads: int) -> Pass:
    """The step again and again until so many images are done, in threads with one of torch's threads each."""
    num_steps = -(-num_images // step(0))

    def work(_: int) -> None:
        num_before = torch.get_num_threads()
        with ThreadPoolExecutor(num_threads, initializer=lambda: torch.set_num_threads(1)) as pool:
            list(pool.map(step, range(num_steps)))
        torch.set_num_threads(num_before)

    return work


def bare_forward(net: Normalised, config: PredictConfig, num_images: int) -> Pass:
    """The net alone on the GPU, batch after batch, images there already and nothing brought back until the end."""
    forward = torch.compile(net.to(memory_format=torch.channels_last), dynamic=False)
    images = _noise(config.batch_size).to(device())

    @torch.inference_mode()
    def work(_: int) -> None:
        with torch.autocast(device().type, torch.bfloat16):
            logits = [forward(images) for _ in range(-(-num_images // config.batch_size))]
        logits[-1].cpu()

    return work


def _noise(number: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (number, 3, SIZE_PX, SIZE_PX), dtype=torch.uint8, generator=generator)


def _scene(generator: torch.Generator) -> Tensor:
    """Uint8 [3, HEIGHT, WIDTH]."""
    regions = F.interpolate(torch.randn(1, 6, 5, 6, generator=generator), size=(HEIGHT, WIDTH), mode="bicubic")
    colours = torch.randn(3, 6, generator=generator)
    levels = colours[:, regions[0].argmax(0)] * 0.8
    cells = 2
    while cells <= WIDTH // 2:
        coarse = torch.randn(1, 4, cells, cells, generator=generator)
        fine = F.interpolate(coarse[:, :1] + 0.3 * coarse[:, 1:], size=(HEIGHT, WIDTH), mode="bicubic")[0]
        levels += fine * cells**-0.6  # contrast falls with the scale, as in photographs
        cells *= 2
    levels = (levels - levels.mean()) / levels.std() * 55 + 120
    levels += 2 * torch.randn(1, HEIGHT, WIDTH, generator=generator)
    return levels.round().clamp(0, 255).to(torch.uint8)


def _jpeg(pixels: Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few images and rounds")
    main(**vars(parser.parse_args()))
