"""What runs on a Ray cluster: the worker on each slot, and the processes of a fit that Ray Train starts.

The core, and torch with it, is imported inside functions: whoever asks for a worker only names its class.
"""

import os
import tempfile
import threading
import time
import traceback
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import ray
from ray.exceptions import RayError

from noisystudent_core import interruption
from noisystudent_core.errors import InterruptedFitError, NoisyStudentError, WorkerDiedError, by_name
from noisystudent_core.events import silent
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.sources import source_digest

NOTICED_S = 5.0  # after which Ray Train has noticed that a process is gone
WORDS = 600  # of Ray's account of a death


def in_folder(folder: str) -> None:
    """Have relative paths mean what they mean to the flow, where its folder is there."""
    if Path(folder).is_dir():
        os.chdir(folder)


def unreachable(folder: str, root: str, marker: str, sources: dict[str, str]) -> str | None:
    """What of these cannot be read on this machine: the marker under `root`, or sources of these digests."""
    in_folder(folder)
    try:
        if not Folder.at(root).exists(marker):
            return f"the root {root}"
    except Exception as error:  # a cloud's client has classes of its own: no credentials, no such address
        return f"the root {root} ({error})"
    for url, digest in sources.items():
        try:
            if source_digest(url) != digest:
                return f"the source {url}, with the same files"
        except Exception as error:
            return f"the source {url} ({error})"
    return None


def in_few_words(error: BaseException) -> str:
    """An account of Ray's on one line."""
    return " ".join(str(error).split())[:WORDS]


class RayWorker:
    """Carries out one request at a time; what it says is fetched meanwhile by `hear`, in another thread.

    As the leader of a fit on several machines it has Ray Train start the processes, hears them, and speaks for them.
    """

    def __init__(self, folder: str, is_leader: bool) -> None:
        if not is_leader:
            from noisystudent_core import worker

            self._serve = worker.serve
        in_folder(folder)
        self._folder = folder
        self._said: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._errors: dict[int, Exception] = {}  # by rank
        self._is_heard = self._asked_to_stop = False
        self._told = threading.Event()  # to stop, or that there is nothing left to stop

    def serve(self, request: dict[str, Any], processes: list[dict[str, float]], leader: Any = None) -> None:
        """Carry out a request here, or as the `leader` by processes with these resources each; say how it ended."""
        try:
            value = self._lead(request, processes, leader) if leader else self._serve(request, self._note)
            self._note("result", value=value)
        except Exception as error:
            traceback.print_exc()
            self._note("error", type=type(error).__name__, message=str(error))

    @ray.method(concurrency_group="say")
    def say(self, event: str, **fields: Any) -> None:
        """Note an event of a process of the fit that this one leads."""
        self._note(event, **fields)

    @ray.method(concurrency_group="hear")
    def hear(self) -> list[dict[str, Any]]:
        """What was said since the last call, at least one event."""
        said = [self._said.get()]
        while not self._said.empty():
            said.append(self._said.get())
        return said

    @ray.method(concurrency_group="say")
    def fail(self, rank: int, name: str, message: str) -> None:
        """Note the error of a process of the fit that this one leads."""
        error = self._errors[rank] = by_name(name, message)
        if self._asked_to_stop and isinstance(error, InterruptedFitError):
            self._note("error", type=name, message=message)  # now: Ray Train takes seconds to end, that may not be left

    @ray.method(concurrency_group="stop")
    def stop(self) -> bool:
        """Ask the work in progress to stop soon; False where none would heed it."""
        self._asked_to_stop = True
        self._told.set()
        return self._is_heard or interruption.request()

    @ray.method(concurrency_group="stop")
    def until_stopped(self) -> bool:
        """Return when the fit that this one leads is to stop, True, or is over, False."""
        self._is_heard = True
        self._told.wait()
        return self._asked_to_stop

    def _note(self, event: str, **fields: Any) -> None:
        self._said.put({"event": event, **fields})

    def _lead(self, request: dict[str, Any], processes: list[dict[str, float]], leader: Any) -> None:
        """Have a fit carried out by Ray Train. It restarts nothing: a fit goes on from its state when it is retried."""
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
        from ray.train.v2.api.exceptions import TrainingFailedError

        self._errors.clear()
        self._is_heard = False
        self._told.clear()
        resources = processes[0]
        with tempfile.TemporaryDirectory() as scratch:
            trainer = TorchTrainer(
                _take_part,
                train_loop_config={"request": request, "folder": self._folder, "leader": leader},
                scaling_config=ScalingConfig(
                    num_workers=len(processes), use_gpu="GPU" in resources, resources_per_worker=resources
                ),
                run_config=RunConfig(
                    name="fit",
                    storage_path=scratch,
                    failure_config=FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
                ),
            )
            try:
                trainer.fit()
            except TrainingFailedError as error:
                raise self._cause(error, len(processes)) from None
            finally:
                self._told.set()

    def _cause(self, error: Any, num_processes: int) -> Exception:
        """What ended a fit: an error raised on purpose, else the process that is gone, else any error."""
        for found in self._errors.values():
            if isinstance(found, NoisyStudentError):
                return found
        gone = getattr(error, "worker_failures", {}).keys() - self._errors.keys()
        if self._errors and not gone:
            return next(iter(self._errors.values()))
        who = f"process {min(gone)} of the {num_processes}" if gone else "the processes"
        return WorkerDiedError(f"{who} of a fit died; the others were ended: {in_few_words(error)}")


def _take_part(given: dict[str, Any]) -> None:
    """What one of the processes of a fit does, in the process group that Ray Train began."""
    from noisystudent_core import worker

    in_folder(given["folder"])
    leader, rank = given["leader"], int(os.environ["RANK"])
    if rank == 0:
        threading.Thread(target=_heed, args=(leader,), daemon=True).start()
    try:
        worker.serve(given["request"], partial(_tell, leader) if rank == 0 else silent)
    except Exception as error:
        ray.get(leader.fail.remote(rank, type(error).__name__, str(error)))
        if not isinstance(error, NoisyStudentError):
            time.sleep(NOTICED_S)  # that another process is gone shows here first, as anything
        raise


def _tell(leader: Any, event: str, **fields: Any) -> None:
    ray.get(leader.say.remote(event, **fields))  # one after another; raises where the leader is gone


def _heed(leader: Any) -> None:
    try:
        if ray.get(leader.until_stopped.remote()):
            interruption.request()
    except RayError:
        return  # the leader is gone, and so is this process soon
