"""The plan of a run: count, measure what is not known yet, lay out, price."""

import os
import platform
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from noisystudent_core.config.run import SPLITS, NoisyStudentConfig
from noisystudent_core.config.settings import ModelConfig
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.events import Events, silent
from noisystudent_core.models.architectures import device
from noisystudent_core.planning import measure, table
from noisystudent_core.planning.costs import price, schedule
from noisystudent_core.planning.counts import Images, assumed, count, sample
from noisystudent_core.planning.devices import CORE_FLOPS, PUBLISHED, Device, published
from noisystudent_core.planning.fits import Machine
from noisystudent_core.planning.nets import net_cost
from noisystudent_core.planning.probes import NEEDS_NET, Probe
from noisystudent_core.planning.rates import Rate, Rates, estimate, measured_of
from noisystudent_core.planning.stages import lay_out
from noisystudent_core.storage.manifest import Inputs

MEASURING_S = 80.0  # all of it
EACH_S, LEAST_S = 6.0, 1.0  # a probe
NUM_PICTURES = 32
# the sets that recipes are written for, where no source is given: METHOD's, and the corpus the paper draws from
USUAL = {
    "imagenet": {"labelled": 1_281_167, "unlabelled": 300_000_000, "validation": 10_000, "test": 50_000},
    "cifar10": {"labelled": 5_000, "unlabelled": 45_000, "test": 10_000},
    "svhn": {"labelled": 69_257, "unlabelled": 531_131, "validation": 4_000, "test": 26_032},
    "finetune": {"labelled": 20_000, "unlabelled": 200_000, "test": 10_000},
}
# measured in place of nets of their families that are out of reach here
SMALL_ONES = {
    "efficientnet": ("tf_efficientnet_b0", 224),
    "vision_transformer": ("vit_tiny_patch16_224", 224),
    "convnext": ("convnext_atto", 224),
}
SMALL_ONE = ("resnet18", 224)


def plan(
    config: NoisyStudentConfig,
    inputs: Inputs,
    root: str,
    events: Events = silent,
    *,
    num_unlabelled: int | None = None,
    num_devices: int = 1,
    device_name: str | None = None,
    rates_folder: str | None = None,
    measuring_s: float = MEASURING_S,
    counting_s: float | None = None,
) -> dict[str, Any]:
    """Plan a run: {"stages": rows, "totals": sums, "text": all of it, "brief": a few lines}.

    `num_unlabelled` images stand in for a source; `device_name` is one of `PUBLISHED`, None this machine's. Measured
    rates are kept in `rates_folder`; with `measuring_s=0` nothing is measured. Raises `SourceError` for a source that
    is not there, `ConfigurationError` where it is not known how many images there are, `TimeoutError` where counting
    them takes longer than `counting_s`.
    """
    if num_devices < 1:
        raise ConfigurationError(f"--devices {num_devices}: must be at least 1")
    here = _here()
    target = here if device_name is None else published(device_name)
    pictures = _Pictures(config)
    counting = ThreadPoolExecutor(1, "counting")
    try:
        sources, notes = counting.submit(_sources, config, num_unlabelled, pictures).result(counting_s)
    finally:
        counting.shutdown(wait=False)
    machine = Machine(num_devices, target.memory_bytes, target.is_cpu)
    stages = lay_out(config, sources, machine, net_cost)
    probes = list(dict.fromkeys(work.probe for stage in stages for work in stage.work))
    rates = Rates(rates_folder, here.name)
    wanted = probes if target.is_here else [probe for probe in probes if probe.kind not in NEEDS_NET]
    known = _known(wanted, here, rates, pictures, measuring_s, events)
    known = {probe: rate for probe, rate in known.items() if target.is_here or probe.kind not in NEEDS_NET}

    def rate_of(probe: Probe) -> Rate:
        if target.is_here and probe in known:
            return known[probe]
        return estimate(probe, target, known, net_cost, here.num_cores)

    priced = [price(stage, rate_of, num_devices, target.is_cpu) for stage in stages]
    placed = schedule(priced, num_devices)
    sums = table.totals(placed, target.name, num_devices)
    rows = [table.row(one) for one in sorted(placed, key=lambda one: stages.index(one.stage))]
    notes += [f"{stage.name}: {stage.note}" for stage in stages if stage.note]
    return {
        "stages": rows,
        "totals": sums,
        "notes": notes,
        "text": table.text(rows, sums, notes),
        "brief": table.brief(rows, sums),
    }


class _Pictures:
    """Image files to measure on: the first of the unlabelled source, else made ones."""

    def __init__(self, config: NoisyStudentConfig) -> None:
        self._source, self._px = config.sources.unlabelled, config.iterations[-1].model.resolution_px
        self._found: list[bytes] = []

    def get(self) -> list[bytes]:
        if not self._found and self._source is not None:
            self._found = sample(self._source, NUM_PICTURES)
        self._found = self._found or measure.made_pictures(NUM_PICTURES, self._px)
        return self._found

    def mean_bytes(self) -> float:
        return fmean(map(len, self.get()))


def _sources(
    config: NoisyStudentConfig, num_unlabelled: int | None, pictures: _Pictures
) -> tuple[dict[str, Images], list[str]]:
    """The images of each split that has a source, counted or assumed, and a note on each."""
    usual = USUAL.get(config.name.partition("_")[0], {}) if config.sources.labelled is None else {}
    given = {} if num_unlabelled is None else {"unlabelled": num_unlabelled}
    found, notes = {}, []
    for split in SPLITS:
        url = getattr(config.sources, split)
        if url is not None and split not in given:
            images = count(url)
            notes.append(f"{split}: {images.number:,} images{'' if images.is_exact else ', estimated,'} at {url}")
        elif split in given or split in usual:
            images = assumed((usual | given)[split], config.data.images_per_part, pictures.mean_bytes())
            how = "as given" if split in given else "assumed: no source is given"
            notes.append(f"{split}: {images.number:,} images of {images.bytes_each / 1e3:,.0f} kB, {how}")
        elif split in ("labelled", "unlabelled"):
            option = " or --images N" if split == "unlabelled" else ""
            raise ConfigurationError(f"{split}: no source; give --{split} URL{option}")
        else:
            continue
        if not images.number:
            raise ConfigurationError(f"{split}: 0 images; must be at least 1")
        found[split] = images
    return found, notes


def _known(
    probes: Sequence[Probe], here: Device, rates: Rates, pictures: _Pictures, measuring_s: float, events: Events
) -> dict[Probe, Rate]:
    """Rates measured before, and those that are measured now, the dearest first, while there is time."""
    small = _small_ones(probes)
    known = measured_of(rates, [*probes, *small])
    missing = [probe for probe in [*measure.in_order(list(probes)), *small] if probe not in known]
    started = time.monotonic()
    for number, probe in enumerate(missing if measuring_s else []):
        left = measuring_s - (time.monotonic() - started)
        if left <= LEAST_S:
            events("message", text=f"the time for measuring is up: {len(missing) - number} rates are estimated")
            break
        if probe not in probes and _kin(probe) in map(_kin, known):
            continue  # a net of the family was measured itself
        events("message", text=f"measuring {_named(probe)}")
        try:
            known[probe] = measure.measure(probe, here, pictures.get(), min(EACH_S, left / (len(missing) - number)))
        except measure.NotHere as reason:
            events("message", text=f"{_named(probe)} is not measured here: {reason}")
        else:
            rates.put(probe, known[probe])
    return known


def _kin(probe: Probe) -> tuple[str, str]:
    """What rates are carried over within: one kind of work, nets of one family."""
    return probe.kind, "" if probe.model is None else net_cost(probe.model, probe.num_classes).family


def _small_ones(probes: Sequence[Probe]) -> list[Probe]:
    """Steps and measurements of a small net of each family."""
    found: dict[Probe, None] = {}
    for probe in probes:
        if probe.kind not in ("step", "evaluate") or probe.model is None:
            continue
        name, px = SMALL_ONES.get(_kin(probe)[1], SMALL_ONE)
        small = ModelConfig(name=name, resolution_px=px, head_init_range=1.0)
        fit = None if probe.fit is None else probe.fit.model_copy(update={"model": small})
        found[probe.model_copy(update={"model": small, "fit": fit})] = None
    return list(found)


def _named(probe: Probe) -> str:
    net = "" if probe.model is None else f" of {probe.model.name} at {probe.model.resolution_px} px"
    return f"{probe.kind}{net or f' to {probe.size_px} px' * bool(probe.size_px)}"


def _here() -> Device:
    """This machine's device, its peak as published where its name is known."""
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device().type == "cpu":
        threads = torch.get_num_threads()
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Device(f"{_cpu_name()}, {threads} threads, CPU", threads * CORE_FLOPS, memory, num_cores, is_here=True)
    properties = torch.cuda.get_device_properties(0)
    peaks = [known.peak_flops for name, known in PUBLISHED.items() if name in properties.name]
    return Device(properties.name, [*peaks, 100e12][0], properties.total_memory, num_cores, is_here=True)


def _cpu_name() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
