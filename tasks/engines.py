"""The engines by name, and the one that each run has opened."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from noisystudent_core.errors import ConfigurationError
from tasks.local_engine import LocalEngine
from tasks.slots import Engine

__all__ = ["ENGINES", "Engine", "LocalEngine", "check_engine", "engine_of", "opened"]


def _ray() -> Engine[Any]:
    """The engine on a Ray cluster; Ray is imported where it is asked for."""
    try:
        from tasks.ray_engine import RayEngine
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "ray":
            raise
        raise ConfigurationError(
            "engine 'ray': Ray is not installed; install noisy-student[ray], here and on every machine of the cluster"
        ) from None
    return RayEngine()


ENGINES: dict[str, Callable[[], Engine[Any]]] = {"local": LocalEngine, "ray": _ray}

_engines: dict[str, Engine[Any]] = {}  # by the id of the run that opened it, or shares it
_around: ContextVar[tuple[str, Engine[Any]] | None] = ContextVar("engine_around", default=None)  # with its name


def check_engine(name: str) -> None:
    """Raise `ConfigurationError` unless there is an engine of this name."""
    if name not in ENGINES:
        raise ConfigurationError(f"engine {name!r}: must be one of {', '.join(ENGINES)}")


@contextmanager
def opened(name: str, run_id: str) -> Iterator[Engine[Any]]:
    """An engine for one run; its workers end with the block, and at the latest with this process.

    A run within the block of another, as those of a study are, shares that one's engine and its workers.
    """
    check_engine(name)
    if (around := _around.get()) is not None and around[0] == name:
        _engines[run_id] = around[1]
        yield around[1]
        return
    engine = _engines[run_id] = ENGINES[name]()
    token = _around.set((name, engine))
    try:
        yield engine
    finally:
        _around.reset(token)
        engine.close()


def engine_of(run_id: str) -> Engine[Any]:
    """The engine opened for this run."""
    return _engines[run_id]
