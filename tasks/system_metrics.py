"""Use of this machine while a stage runs on it, for the page of system metrics of the stage's MLflow run.

Measured by MLflow's own monitors in the flow's process: all that runs on the machine, the stage's worker among it.
"""

from collections.abc import Callable, Mapping
from threading import Event, Thread
from types import TracebackType
from typing import Any, Self

PREFIX = "system/"  # what MLflow's UI keeps apart from a model's metrics
EVERY_S = 10.0


class SystemMetrics:
    """Takes a sample every few seconds while its block lasts, and a last one; steps count on from `first_step`."""

    def __init__(self, log: Callable[[Mapping[str, float], int], None], first_step: int) -> None:
        self._log, self._step = log, first_step
        self._ended = Event()
        self._thread = Thread(target=self._run, name="system-metrics", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(EVERY_S)

    def _run(self) -> None:
        monitors = _monitors()
        for monitor in monitors:
            monitor.collect_metrics()  # the use of a CPU is counted from one look to the next
            monitor.clear_metrics()
        last = False
        while not last:
            last = self._ended.wait(EVERY_S)
            found: dict[str, float] = {}
            for monitor in monitors:
                monitor.collect_metrics()
                found |= monitor.aggregate_metrics()
                monitor.clear_metrics()
            self._log({f"{PREFIX}{name}": value for name, value in found.items()}, self._step)
            self._step += 1


def _monitors() -> list[Any]:
    """Of CPU and memory, disk, network, and of NVIDIA GPUs where there are some."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    found: list[Any] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    try:
        found.append(GPUMonitor())
    except (ImportError, RuntimeError):  # no NVIDIA driver
        return found
    return found
