"""Measures this machine: each probe is the product's own code, timed on a little of its work."""

import io
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor, nn

from noisystudent_core.config.data import IngestConfig, PrepareConfig
from noisystudent_core.config.evaluation import Adversarial, Corruptions
from noisystudent_core.config.settings import FitConfig, PredictConfig
from noisystudent_core.data import duplicates
from noisystudent_core.data.image_files import NUM_THREADS
from noisystudent_core.data.images import decode_batch
from noisystudent_core.data.mixing import image_seeds
from noisystudent_core.data.parts import ANY_SIZE
from noisystudent_core.data.schemas import IMAGE_ID
from noisystudent_core.data.streams import ResidentStream, Share
from noisystudent_core.evaluation import adversarial, classification, corruptions, perturbations, sequences
from noisystudent_core.models.architectures import Normalised, create_model, device
from noisystudent_core.noise.input_noise import source_geometry
from noisystudent_core.noise.model_noise import noise_model
from noisystudent_core.planning.devices import Device
from noisystudent_core.planning.nets import net_cost
from noisystudent_core.planning.probes import Probe
from noisystudent_core.planning.rates import Rate, flops_each
from noisystudent_core.pseudo_labels.forward import Forward
from noisystudent_core.pseudo_labels.pipeline import Labeller
from noisystudent_core.stages import prepare
from noisystudent_core.training import loop
from noisystudent_core.training.batches import Batches
from noisystudent_core.training.inputs import labelled_order, unlabelled_order
from noisystudent_core.training.step import train_step

BATCH_S = 1.0  # that a batch may take by its operations; of larger ones a part is taken, and said so
LONGEST_BATCH_S = 6.0  # the smallest batch of a net that is measured at all
MEMORY_SHARE = 0.3  # of the device's that a measurement may take
ROUNDS = 7
PICTURE_PX = (500, 375)  # made where there is no source: about ImageNet's
MOST_CORRUPTED = 128

Work = Callable[[], int]  # does some of it, and says how much


class NotHere(Exception):
    """This machine cannot measure it: too slow or too large."""


def measure(probe: Probe, here: Device, pictures: list[bytes], budget_s: float) -> Rate:
    """Time a probe for about `budget_s`; raises `NotHere` where even its smallest batch is out of reach."""
    try:
        work, basis = _WORK[probe.kind](probe, here, pictures, budget_s)
        return Rate(_per_s(work, budget_s), "measured", basis)
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise NotHere("does not fit into memory") from error


def made_pictures(number: int, resolution_px: int) -> list[bytes]:
    """JPEG files of a likely size for nets of a resolution: smooth random pictures."""
    size = PICTURE_PX if resolution_px >= 96 else (resolution_px, resolution_px)
    random = np.random.default_rng(0)
    found = []
    for _ in range(number):
        rough = Image.fromarray(random.integers(0, 256, (size[1] // 8 + 1, size[0] // 8 + 1, 3), np.uint8))
        grain = random.integers(-12, 13, (size[1], size[0], 3))
        pixels = np.clip(np.asarray(rough.resize(size, Image.Resampling.BICUBIC)) + grain, 0, 255)
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=90)
        found.append(file.getvalue())
    return found


def _per_s(work: Work, budget_s: float) -> float:
    """The median rate of a few rounds, after one that is not counted."""
    work()
    rates: list[float] = []
    started = time.perf_counter()
    while len(rates) < 2 or (len(rates) < ROUNDS and time.perf_counter() - started < 0.7 * budget_s):
        before = time.perf_counter()
        amount = work()
        if device().type == "cuda":
            torch.cuda.synchronize()
        rates.append(amount / (time.perf_counter() - before))
    return median(rates)


def _num_images(probe: Probe, here: Device, wanted: int, least: int, bytes_of_an_image: float) -> int:
    """As many images as a batch may have here; raises `NotHere` where the fewest are too many."""
    assert probe.model is not None
    attained = here.peak_flops * (0.4 if here.is_cpu else 0.1)
    each_s = flops_each(probe, net_cost(probe.model, probe.num_classes)) / attained
    most = MEMORY_SHARE * here.memory_bytes / bytes_of_an_image
    if least * each_s > LONGEST_BATCH_S or least > most:
        raise NotHere(f"{least} images take {least * each_s:.0f} s")
    return max(least, min(wanted, int(BATCH_S / each_s), int(most)))


def _step(probe: Probe, here: Device, pictures: list[bytes], budget_s: float) -> tuple[Work, str]:
    assert probe.fit is not None and probe.model is not None
    whole = sum(probe.fit.images_per_step)
    ratio, cost = whole / probe.fit.train.batch_size, net_cost(probe.model, probe.num_classes)
    least, at_once = max(2, round(1 + ratio)), round(whole / probe.fit.train.micro_batches)
    number = _num_images(probe, here, at_once, least, 4.0 * cost.activations)
    labelled = max(1, int(number / ratio))
    train = probe.fit.train.model_copy(update={"batch_size": labelled, "micro_batches": 1})
    config = probe.fit.model_copy(update={"train": train})
    model = config.model
    net = create_model(model, config.num_classes, 0, train.batch_norm_momentum)
    noise_model(net, model.dropout, model.stochastic_depth)
    state = loop.start(Normalised(net).to(device()), config)
    batches, steps = _batches(config), itertools.count()

    def work() -> int:
        train_step(state, batches(next(steps)), train, 1e-6)
        return sum(config.images_per_step)

    taken = sum(config.images_per_step)
    return work, f"steps of {taken} images" + (f" instead of {whole}" if taken < whole else "")


def _batches(config: FitConfig) -> Batches:
    """Random images, resident, as many as a batch has."""
    (num_labelled, num_unlabelled), num_classes = config.images_per_step, config.num_classes
    labels = (torch.arange(num_labelled) % num_classes).to(device())
    images = _images(num_labelled, source_geometry(config.noise, config.model.resolution_px, 1.0)[0])
    labelled = ResidentStream(images, labels, labelled_order(config, [num_labelled]), Share())
    if config.pseudo_labels is None:
        return Batches(config, labelled, None)
    noise = config.pseudo_labels.noise or config.noise
    images = _images(num_unlabelled, source_geometry(noise, config.model.resolution_px, 1.0)[0])
    soft = torch.full((num_unlabelled, num_classes), 1 / num_classes, device=device())
    order = unlabelled_order(config, [num_unlabelled], None)
    return Batches(config, labelled, ResidentStream(images, soft, order, Share()))


def _label(probe: Probe, here: Device, pictures: list[bytes], budget_s: float) -> tuple[Work, str]:
    assert probe.model is not None
    config, size = PredictConfig(batch_size=probe.batch_size), probe.model.resolution_px
    _num_images(probe, here, 1, 1, 4.0 * net_cost(probe.model, probe.num_classes).activations)
    forward = Forward(_net(probe), config, size)
    rows = forward.batch_size * 4
    table = _table(pictures, rows)

    def work() -> int:
        with Labeller(forward, config, size, probe.model.crop_fraction if probe.model else 1.0) as labeller:
            for _, found in labeller.label([(0, lambda: table)]):
                if isinstance(found, Exception):
                    raise found
        return rows

    return work, f"{rows} images in batches of {forward.batch_size}"


def _evaluate(probe: Probe, here: Device, pictures: list[bytes], budget_s: float) -> tuple[Work, str]:
    assert probe.model is not None
    number = _num_images(probe, here, probe.batch_size, 1, net_cost(probe.model, probe.num_classes).activations)
    batch, net = _labelled_batch(probe, number), _net(probe)

    def work() -> int:
        list(classification.run(net, [batch]))
        return number

    return work, f"batches of {number}"


def _attack(probe: Probe, here: Device, pictures: list[bytes], budget_s: float) -> tuple[Work, str]:
    assert probe.model is not None and isinstance(probe.suite, Adversarial)
    cost = net_cost(probe.model, probe.num_classes)
    number = _num_images(probe, here, probe.batch_size, 1, 4.0 * cost.activations)
    batch, net, suite = _labelled_batch(probe, number), _net(probe), probe.suite

    def work() -> int:
        list(adversarial.run(net, [batch], suite))
        return number

    return work, f"batches of {number}"


def _decode(probe: Probe, here: Device, pictures: list[bytes], budget_s: float) -> tuple[Work, str]:
    data = pictures * 4

    def work() -> int:
        decode_batch(data, probe.size_px, probe.crop_fraction, num_threads=NUM_THREADS, max_pixels=ANY_SIZE)
        return len(data)

    return work, f"{len(data)} images"


def _ingest(probe: Probe, here: Device, pictures: list[bytes], budget_s: float) -> tuple[Work, str]:
    data = pictures * 16
    folder = tempfile.TemporaryDirectory()
    file, rounds = Path(folder.name) / "images.parquet", itertools.count()
    pq.write_table(pa.table({"image": pa.array(data, pa.binary())}), file)

    def work() -> int:
        root = Path(folder.name) / str(next(rounds))
        prepare(PrepareConfig(ingest=IngestConfig()), {"source": str(file)}, str(root))
        return len(data)

    return work, f"{len(data)} images"


def _fingerprint(probe: Probe, here: Device, pictures: list[bytes], budget_s: float) -> tuple[Work, str]:
    table = _table(pictures, 8 * len(pictures))

    def work() -> int:
        return len(duplicates.fingerprint(table))

    return work, f"{len(table)} images"


def _corrupt(probe: Probe, here: Device, pictures: list[bytes], budget_s: float) -> tuple[Work, str]:
    assert isinstance(probe.suite, Corruptions)
    suite = probe.suite

    def worse(number: int) -> int:
        images, seeds = _images(number, probe.size_px), image_seeds(0, 0, number)
        for name, severity in itertools.product(corruptions.names(None), suite.severities):
            corruptions.corrupt(images, name, severity, seeds)
        return number

    return _of_likely_number(worse, budget_s)


def _perturb(probe: Probe, here: Device, pictures: list[bytes], budget_s: float) -> tuple[Work, str]:
    def worse(number: int) -> int:
        images, seeds = _images(number, probe.size_px), image_seeds(0, 0, number)
        for name in perturbations.NAMES:
            sequences.perturbation_sequence(images, name, seeds, crop_px=probe.size_px)
        return number

    return _of_likely_number(worse, budget_s)


def _of_likely_number(worse: Callable[[int], int], budget_s: float) -> tuple[Work, str]:
    """As many images at a time as a fifth of the budget allows."""
    number = 1
    for _ in range(2):  # one image alone takes far more than its share of many
        before = time.perf_counter()
        worse(number)
        number = int(max(1, min(MOST_CORRUPTED, 0.2 * budget_s * number / (time.perf_counter() - before))))
    return lambda: worse(number), f"{number} images of every kind"


def _net(probe: Probe) -> nn.Module:
    assert probe.model is not None
    return Normalised(create_model(probe.model, probe.num_classes, 0, 0.1)).to(device()).eval()


def _images(number: int, size_px: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (number, 3, size_px, size_px), dtype=torch.uint8, generator=generator).to(device())


def _labelled_batch(probe: Probe, number: int) -> tuple[Tensor, Tensor]:
    assert probe.model is not None
    return _images(number, probe.model.resolution_px), torch.arange(number) % probe.num_classes


def _table(pictures: list[bytes], num_rows: int) -> pa.Table:
    """Image rows as labelling and hashing read them."""
    images = list(itertools.islice(itertools.cycle(pictures), num_rows))
    ids = [row.to_bytes(16, "little") for row in range(num_rows)]
    columns = {"image_id": pa.array(ids, IMAGE_ID), "image": pa.array(images, pa.binary())}
    return pa.table(columns | {"reason": pa.nulls(num_rows, pa.string())})


_WORK: dict[str, Callable[[Probe, Device, list[bytes], float], tuple[Work, str]]] = {
    "step": _step,
    "label": _label,
    "evaluate": _evaluate,
    "attack": _attack,
    "decode": _decode,
    "ingest": _ingest,
    "fingerprint": _fingerprint,
    "corrupt": _corrupt,
    "perturb": _perturb,
}


def in_order(probes: list[Probe]) -> Iterator[Probe]:
    """The probes that matter most first: what is not measured when the time is up is estimated."""
    order = list(_WORK)
    yield from sorted(probes, key=lambda probe: order.index(probe.kind))
