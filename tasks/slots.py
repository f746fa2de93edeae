"""What an engine is: slots on which core calls run, one at a time each, taken in the order they are asked for."""

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Condition
from typing import Any, Generic, Protocol, TypeVar

from noisystudent_core.config import NoisyStudentConfig, StageSettings
from noisystudent_core.errors import NoisyStudentError, by_name
from noisystudent_core.events import Events, silent
from noisystudent_core.storage.manifest import Inputs

SILENCE_S = float(os.environ.get("NOISY_STUDENT_WORKER_SILENCE_S", "1800"))  # a worker silent for longer is ended
STOP_S = 8.0  # that a fit has to save its state when its run ends before it

# OpenMP threads that wait by spinning lose most of their speed as soon as a core is shared with anything else
SHARING = {"OMP_WAIT_POLICY": "passive"}


class Slot(Protocol):
    """A place with a long-lived worker on it, started when first needed and again after a death."""

    def serve(self, request: dict[str, Any], events: Events, others: Sequence[Any]) -> Any:
        """Carry out a core call, and return its JSON result; `others` are slots that it takes beside this one.

        Raises the error the call raised, by name, or `WorkerDiedError` if the worker died or fell silent.
        """
        ...

    def stop(self) -> None:
        """End the worker: a fit may save its state, other stages lose their unfinished parts only."""
        ...


Item = TypeVar("Item")
AnySlot = TypeVar("AnySlot", bound=Slot)


class Engine(ABC, Generic[AnySlot]):
    """Slots, and the workers on them. A fit on several devices takes as many slots; their own workers end before."""

    is_here = False  # whether all slots are this machine's

    def __init__(self, slots: Sequence[AnySlot]) -> None:
        self._closed = False
        self._all = list(slots)
        self._slots = Slots(self._all)

    @property
    def num_slots(self) -> int:
        """How many stages can run at once."""
        return len(self._all)

    def run(
        self,
        call: str,
        config: StageSettings | NoisyStudentConfig,
        inputs: Inputs,
        root: str,
        events: Events = silent,
        **arguments: Any,
    ) -> Any:
        """Run a core call on the next free slot, or the next free ones, and return its JSON result.

        Raises the error the call raised, by name, or `WorkerDiedError` if its process died or fell silent.
        """
        request = {
            "call": call,
            "config": config.model_dump(mode="json"),
            "inputs": dict(inputs),
            "root": root,
            "arguments": arguments,
        }
        with self._slots.taken(self.num_slots_of(config)) as (slot, *others):
            if self._closed:
                raise NoisyStudentError(f"{call}: not started, the run is over")
            for other in others:
                other.stop()
            return slot.serve(request, events, others)

    def close(self) -> None:
        """End every worker, all at once and for good: what still waits for a slot is refused."""
        self._closed = True
        with ThreadPoolExecutor(len(self._all)) as stopping:
            list(stopping.map(lambda slot: slot.stop(), self._all))

    @abstractmethod
    def num_slots_of(self, config: StageSettings | NoisyStudentConfig) -> int:
        """How many slots a call takes; raises `ConfigurationError` where there are not that many."""


class Slots(Generic[Item]):
    """Free slots, in the order they are asked for: whoever needs several keeps those behind waiting, not they it.

    The first ones go first: their workers are started already.
    """

    def __init__(self, slots: Sequence[Item]) -> None:
        self._all, self._free = list(slots), list(slots)
        self._waiting, self._changed = deque[object](), Condition()

    @contextmanager
    def taken(self, number: int) -> Iterator[list[Item]]:
        """Hold so many slots while the block lasts: all at once, as soon as they are free."""
        turn = object()
        with self._changed:
            self._waiting.append(turn)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is turn and len(self._free) >= number)
                slots = [self._free.pop(0) for _ in range(number)]
            finally:
                self._waiting.remove(turn)
                self._changed.notify_all()
        try:
            yield slots
        finally:
            with self._changed:
                self._free = [slot for slot in self._all if slot in self._free or slot in slots]
                self._changed.notify_all()


def outcome(said: Iterable[dict[str, Any]], events: Events) -> Any:
    """Pass on what a worker says of a request until its result, which is returned, or its error, which is raised."""
    for event in said:
        match event.pop("event"):
            case "ready":
                continue
            case "result":
                return event["value"]
            case "error":
                raise by_name(event["type"], event["message"])
            case name:
                events(name, **event)
    raise AssertionError("a worker ended without a word")
