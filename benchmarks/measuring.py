"""What benchmarks of speed share: the clock, pictures to work on, and the names of hardware and libraries."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

Pass = Callable[[int], object]  # the work that is timed; a number of its own gives each time draws of its own


def seconds(work: Pass, number: int, device: torch.device) -> float:
    """How long it takes; on a GPU by CUDA events, with nothing to do before."""
    if device.type != "cuda":
        started = time.perf_counter()
        work(number)
        return time.perf_counter() - started
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    before.record()
    work(number)
    after.record()
    after.synchronize()
    return before.elapsed_time(after) / 1000


def in_turns(works: list[Pass], num_rounds: int, device: torch.device, num_warm_up: int = 1) -> list[list[float]]:
    """Seconds by round and work; a machine that slows down slows all works of a round, and leaves their ratios."""
    numbers = range(num_warm_up + num_rounds)
    return [[seconds(work, number, device) for work in works] for number in numbers][num_warm_up:]


def spread(values: list[float], form: str) -> str:
    """The median, and the lowest and the highest."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def smooth_fields(num_images: int, size_px: int) -> Tensor:
    """Random pictures, uint8 [N, 3, S, S]: equal contrast at every scale, channels alike but not the same."""
    generator = torch.Generator().manual_seed(size_px)
    levels, cells = torch.zeros(num_images, 3, size_px, size_px), 2
    while cells < size_px:
        coarse = torch.randn(num_images, 4, cells, cells, generator=generator)
        levels += F.interpolate(coarse[:, :1] + 0.5 * coarse[:, 1:], size=(size_px, size_px), mode="bilinear")
        cells *= 2
    return (levels / levels.std() * 60 + 120).clamp(0, 255).to(torch.uint8)


def all_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def cores(number: int) -> str:
    """A number of cores in words."""
    return f"{number} core{'s' * (number > 1)}"


def circumstances(*libraries: str) -> str:
    """The day, the processor and its cores, the GPU, and versions of the `libraries`."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    versions = ", ".join(f"{library} {version(library)}" for library in libraries)
    return f"{date.today()}, {next(iter(names), platform.machine())}, {cores(all_cores())}, {gpu}; {versions}"
