"""The machines of a Ray cluster, and a long-lived actor on each slot of theirs. Prefect retries, Ray does not."""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from noisystudent_core.config import SPLITS, FitConfig, NoisyStudentConfig, StageSettings
from noisystudent_core.errors import ConfigurationError, NoisyStudentError, WorkerDiedError
from noisystudent_core.events import Events, silent
from noisystudent_core.storage.manifest import Inputs
from tasks import ray_cluster
from tasks.ray_worker import RayWorker, in_few_words
from tasks.slots import SHARING, SILENCE_S, STOP_S, Engine, outcome

ANSWER_S = 1.5  # that a worker has to say whether it stops by itself

# Ray Train: stay in the flow's folder, and do not wait long for processes that hang because another is gone
TRAIN = {"RAY_CHDIR_TO_TRIAL_DIR": "0", "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "3"}


class RayEngine(Engine["RaySlot"]):
    """A slot per GPU of an existing cluster, or per machine where there are none, counted when the run starts.

    A fit on several slots goes through Ray Train. Raises `ConfigurationError` where no cluster answers or its machines
    lack this package.
    """

    def __init__(self, silence_s: float = SILENCE_S) -> None:
        ray_cluster.connect()
        self._seen, self._seeing = set[str](), threading.Lock()
        try:
            self._resources, self._places = ray_cluster.workers()
            ray_cluster.check_installation(self._places)
        except BaseException:
            ray_cluster.disconnect()
            raise
        super().__init__([RaySlot(self._resources, silence_s) for _ in self._places])

    def run(
        self,
        call: str,
        config: StageSettings | NoisyStudentConfig,
        inputs: Inputs,
        root: str,
        events: Events = silent,
        **arguments: Any,
    ) -> Any:
        """As `Engine.run`; raises `ConfigurationError` unless all machines see the root, and a run's sources."""
        where = root or arguments["out"]
        with self._seeing:
            if where not in self._seen:
                ray_cluster.check_reach(self._places, where, _sources(config))
                self._seen.add(where)
        return super().run(call, config, inputs, root, events, **arguments)

    def close(self) -> None:
        """As `Engine.close`, and leave the cluster."""
        if not self._closed:
            super().close()
            ray_cluster.disconnect()

    def num_slots_of(self, config: StageSettings | NoisyStudentConfig) -> int:
        """One, but for a fit as many as it has processes: one a GPU, on CPUs what `execution.num_processes` says."""
        if not isinstance(config, FitConfig):
            return 1
        if "GPU" in self._resources:
            return config.num_processes(self.num_slots)
        wanted = config.execution.num_processes or 1
        if wanted > self.num_slots:
            raise ConfigurationError(
                f"execution.num_processes={wanted}: must be at most {self.num_slots}, the workers on this cluster's "
                f"machines; leave it out, or lower {ray_cluster.CPUS}, the CPUs of each"
            )
        return wanted


def _sources(config: StageSettings | NoisyStudentConfig) -> list[str]:
    if not isinstance(config, NoisyStudentConfig):
        return []
    return [source for split in SPLITS if (source := config.source(split)) is not None]


class RaySlot:
    """Resources of the cluster and the actor on them."""

    def __init__(self, resources: dict[str, float], silence_s: float) -> None:
        self._resources, self._silence_s = resources, silence_s
        self._worker: Any = None
        self._leads = False  # the processes of a fit, and needs nothing for itself
        self._request: Any = None  # the reference of the one in progress

    def serve(self, request: dict[str, Any], events: Events, others: "Sequence[RaySlot]") -> Any:
        """As `Slot.serve`; with other slots it has Ray Train carry out the call on the resources of all."""
        if self._worker is not None and self._leads != bool(others):
            self.stop()
        if self._worker is None:
            self._leads = bool(others)
            self._worker = self._start()
        worker = self._worker
        processes = [self._resources] * (1 + len(others))
        self._request = worker.serve.remote(request, processes, worker if others else None)
        try:
            return outcome(self._said(worker), events)
        except BaseException as error:
            if not isinstance(error, NoisyStudentError) or isinstance(error, WorkerDiedError):
                self.stop()  # nobody would read the rest of this request's events
            raise

    def stop(self) -> None:
        """As `Slot.stop`."""
        worker, self._worker = self._worker, None
        if worker is not None:
            with suppress(RayError):
                if ray.get(worker.stop.remote(), timeout=ANSWER_S):
                    ray.wait([self._request], timeout=STOP_S - ANSWER_S)
            ray.kill(worker)

    def _start(self) -> Any:
        given = {} if self._leads else self._resources
        options: dict[str, Any] = {
            "num_cpus": given.get("CPU", 0),
            "num_gpus": given.get("GPU", 0),
            "max_restarts": 0,
            "max_task_retries": 0,
            "concurrency_groups": {"say": 1, "hear": 1, "stop": 2},
            "runtime_env": {"env_vars": {k: os.environ.get(k, v) for k, v in (SHARING | TRAIN).items()}},
        }
        if self._leads:
            options["scheduling_strategy"] = ray_cluster.on_this_machine()
        actor: Any = ray.remote(**options)(RayWorker)
        return actor.remote(str(Path.cwd()), self._leads)

    def _said(self, worker: Any) -> Iterator[dict[str, Any]]:
        """What the worker says; its death and its silence are errors."""
        while True:
            said = worker.hear.remote()
            if not ray.wait([said], timeout=self._silence_s)[0]:
                raise WorkerDiedError(
                    f"worker said nothing for {self._silence_s:.0f} s, the limit of NOISY_STUDENT_WORKER_SILENCE_S, "
                    f"and was ended; if it waited for {self._resources} of the cluster, that is in use elsewhere"
                )
            try:
                yield from ray.get(said)
            except RayActorError as error:
                raise _death(error) from None


def _death(error: RayActorError) -> Exception:
    if error.actor_init_failed:
        return ConfigurationError(f"engine 'ray': no worker starts there: {in_few_words(error)}")
    return WorkerDiedError(f"worker died, for lack of memory as a rule; Ray says: {in_few_words(error)}")
