"""Speeds: measured ones, kept in a folder so that nobody measures twice, and estimates from them or data sheets."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from math import log
from pathlib import Path
from typing import Literal

from noisystudent_core.config.evaluation import Adversarial
from noisystudent_core.planning.devices import Device, utilisation
from noisystudent_core.planning.fits import Nets
from noisystudent_core.planning.nets import NetCost
from noisystudent_core.planning.probes import NEEDS_NET, Probe
from noisystudent_core.storage.digests import digest_of

VERSIONS = ("torch", "torchvision", "timm", "pillow")
# of a CPU core where nothing is measured: an image costs so many seconds, and so many more for each byte of its file
# or pixel (megapixels of ten or fifteen kinds, for what is made worse)
ASSUMED_S = {
    "decode": (2e-4, 4e-8),
    "ingest": (3e-4, 5e-8),
    "fingerprint": (3e-4, 2e-8),
    "corrupt": (5e-3, 4e-6),
    "perturb": (5e-3, 1e-5),
}
BACKWARD = 2  # times the forward pass


@dataclass(frozen=True)
class Rate:
    """How many of a probe's unit a second, and where that comes from."""

    per_s: float
    how: Literal["measured", "scaled", "assumed"]
    basis: str  # what was measured, on how much; or what is assumed


class Rates:
    """Measured rates of one device in a folder: a small file for each probe; None as folder keeps nothing."""

    def __init__(self, folder: str | None, device_name: str) -> None:
        self._folder = None if folder is None else Path(folder)
        self._machine = [device_name, os.environ.get("OMP_NUM_THREADS", ""), *(version(name) for name in VERSIONS)]

    def get(self, probe: Probe) -> Rate | None:
        """The rate measured before; None where there is none."""
        try:
            found = json.loads(self._file(probe).read_text())
            return Rate(float(found["per_s"]), "measured", str(found["basis"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None  # none, or half of one: it is measured again

    def put(self, probe: Probe, rate: Rate) -> None:
        """Keep a measured rate."""
        file = self._file(probe)
        if self._folder is None:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {"per_s": rate.per_s, "basis": rate.basis, "machine": self._machine, "probe": probe.model_dump()}
        scratch = file.with_suffix(f".{os.getpid()}")
        scratch.write_text(json.dumps(content, indent=1) + "\n")
        scratch.replace(file)

    def _file(self, probe: Probe) -> Path:
        name = digest_of([probe.model_dump(mode="json"), self._machine])
        return (self._folder or Path(os.devnull)) / f"{name}.json"


def flops_each(probe: Probe, cost: NetCost) -> float:
    """Operations that one unit of a probe takes of its net: a step's image three forward passes' worth."""
    if probe.kind == "step":
        return (1 + BACKWARD) * cost.flops
    if isinstance(suite := probe.suite, Adversarial):
        ascents = 1 + (suite.pgd_steps if suite.pgd_epsilon is not None else 0)
        forwards = len(suite.fgsm_epsilons) + (suite.pgd_epsilon is not None)
        return (forwards + (1 + BACKWARD) * ascents) * cost.flops
    return cost.flops


def estimate(probe: Probe, device: Device, measured: dict[Probe, Rate], nets: Nets, cores_here: int) -> Rate:
    """A rate without measuring it: from a like one that was measured here, else from what the device is said to do."""
    if probe.kind not in NEEDS_NET:
        return _on_cores(probe, device, measured, cores_here)
    assert probe.model is not None
    cost = nets(probe.model, probe.num_classes)
    needed = flops_each(probe, cost)
    like = _like(probe, cost, measured, nets) if device.is_here else None
    if like is None:
        share = utilisation(device, cost.family)
        net = Rate(device.peak_flops * share / needed, "assumed", f"{_tera(device.peak_flops)} peak x {share:.0%}")
    else:
        known, rate = like
        assert known.model is not None
        attained = rate.per_s * flops_each(known, nets(known.model, known.num_classes))
        basis = f"{_tera(attained)} attained by {known.model.name} at {known.model.resolution_px} px"
        net = Rate(attained / needed, "scaled", basis)
    if probe.kind != "label":
        return net
    decode = Probe(
        kind="decode",
        image_bytes=probe.image_bytes,
        size_px=probe.model.resolution_px,
        crop_fraction=probe.model.crop_fraction,
    )
    decoded = _on_cores(decode, device, measured, cores_here)
    if device.is_cpu:
        return Rate(1 / (1 / net.per_s + 1 / decoded.per_s), net.how, f"{net.basis}, and decoding")
    return net if net.per_s <= decoded.per_s else Rate(decoded.per_s, decoded.how, f"decoding: {decoded.basis}")


def _like(probe: Probe, cost: NetCost, measured: dict[Probe, Rate], nets: Nets) -> tuple[Probe, Rate] | None:
    """The measured work most like this: of the same kind, of the same family, of nearest cost."""
    kinds = ("evaluate", "label") if probe.kind in ("evaluate", "label") else (probe.kind,)
    found = [
        (nets(known.model, known.num_classes), known, rate)
        for known, rate in measured.items()
        if known.kind in kinds and known.model is not None
    ]
    family = [row for row in found if row[0].family == cost.family] or found
    if not family:
        return None
    _, known, rate = min(family, key=lambda row: abs(log(row[0].flops / cost.flops)))
    return known, rate


def _on_cores(probe: Probe, device: Device, measured: dict[Probe, Rate], cores_here: int) -> Rate:
    """Work of CPU cores, of which another device may have more beside it."""
    if (rate := measured.get(probe)) is not None:
        if device.is_here:
            return rate
        factor = device.num_cores / cores_here
        return Rate(
            rate.per_s * factor, "scaled", f"{cores_here} cores here, {device.num_cores} beside a {device.name}"
        )
    first, each = ASSUMED_S[probe.kind]
    per_s = device.num_cores / (first + each * (probe.image_bytes or probe.size_px**2))
    return Rate(per_s, "assumed", f"{device.num_cores} cores")


def measured_of(rates: Rates, probes: Iterable[Probe]) -> dict[Probe, Rate]:
    """What is known of these probes."""
    return {probe: rate for probe in probes if (rate := rates.get(probe)) is not None}


def _tera(flops: float) -> str:
    return f"{flops / 1e12:,.1f} TFLOP/s" if flops >= 1e12 else f"{flops / 1e9:,.0f} GFLOP/s"
