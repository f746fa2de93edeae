"""Stages and rates to seconds: each stage's arithmetic, and when it runs on so many devices. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from noisystudent_core.planning.fits import Work
from noisystudent_core.planning.probes import Probe
from noisystudent_core.planning.rates import Rate
from noisystudent_core.planning.stages import Stage

SHOWN_SHARE = 0.02  # of a stage's seconds: less is counted but not shown

RateOf = Callable[[Probe], Rate]


@dataclass(frozen=True)
class Priced:
    """A stage with what it takes: seconds of its own, on so many devices, and from when to when in the run."""

    stage: Stage
    seconds: float
    num_devices: int
    arithmetic: tuple[str, ...]
    how: str  # the weakest of its rates: measured, scaled or assumed
    start_s: float = 0.0

    @property
    def device_s(self) -> float:
        """Seconds of devices."""
        return self.seconds * self.num_devices

    @property
    def end_s(self) -> float:
        """When it ends, from the run's start."""
        return self.start_s + self.seconds


def price(stage: Stage, rate_of: RateOf, num_devices: int, is_cpu: bool) -> Priced:
    """What a stage takes on the devices that it can use."""
    used = max(1, min(num_devices, stage.groups or stage.processes))
    rates = [rate_of(work.probe) for work in stage.work]
    found = [
        work.amount / rate.per_s / (used if work.is_shared else 1) for work, rate in zip(stage.work, rates, strict=True)
    ]
    seconds = sum(found)
    if stage.overlaps and not is_cpu:  # a GPU learns while cores decode what is streamed
        streamed = [
            s for work, s in zip(stage.work, found, strict=True) if work.probe.kind == "decode" and work.is_shared
        ]
        seconds += max(found[0], sum(streamed)) - found[0] - sum(streamed)
    lines = [
        _line(work, rate, s, used if work.is_shared else 1)
        for work, rate, s in zip(stage.work, rates, found, strict=True)
        if work.amount and s >= SHOWN_SHARE * seconds
    ]
    if stage.fixed_s >= 0.5:
        lines.append(f"{stage.fixed_for} = {duration(stage.fixed_s)}")
    weakest = max((rate.how for rate in rates), key=_TRUST.index, default="assumed")
    return Priced(stage, seconds + stage.fixed_s, used, tuple(lines), weakest)


def schedule(priced: Sequence[Priced], num_devices: int) -> list[Priced]:
    """When each stage runs: as soon as what it waits for is done and its devices are free, the first ones first."""
    ends: dict[str, float] = {}
    free_at = [0.0] * num_devices
    waiting, placed = list(priced), list[Priced]()
    while waiting:
        ready = [one for one in waiting if all(name in ends for name in one.stage.after)]
        assert ready, f"stages wait for one another: {[one.stage.name for one in waiting]}"
        starts = [max([_free(free_at, one.num_devices), *(ends[name] for name in one.stage.after)]) for one in ready]
        first = min(range(len(ready)), key=lambda i: (starts[i], i))
        one = Priced(**{**vars(ready[first]), "start_s": starts[first]})
        free_at.sort()
        free_at[: one.num_devices] = [one.end_s] * one.num_devices
        ends[one.stage.name] = one.end_s
        waiting.remove(ready[first])
        placed.append(one)
    return placed


def duration(seconds: float) -> str:
    """Seconds in the unit that is read most easily."""
    for unit, size in (("years", 365 * 86400), ("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.0f} s" if seconds >= 10 else f"{seconds:,.1f} s"


_TRUST = ("measured", "scaled", "assumed")


def _free(free_at: list[float], number: int) -> float:
    """When so many devices are free at once."""
    return sorted(free_at)[number - 1]


def _line(work: Work, rate: Rate, seconds: float, used: int) -> str:
    many = f" / {used} devices" if used > 1 else ""
    return f"{work.reason} / {_number(rate.per_s)} a second ({rate.how}: {rate.basis}){many} = {duration(seconds)}"


def _number(per_s: float) -> str:
    return f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:.3g}"
