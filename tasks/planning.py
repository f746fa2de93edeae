"""The plan of a run: asked of the core, and logged where a run starts."""

from logging import Logger, LoggerAdapter
from typing import Any

from noisystudent_core.config import NoisyStudentConfig
from noisystudent_core.errors import NoisyStudentError
from noisystudent_core.events import Events, silent
from tasks.engines import Engine
from tasks.services import home_folder

COUNTING_S = 1.0  # that a run waits for the numbers of its images

Log = Logger | LoggerAdapter[Any]


def planned(
    engine: Engine[Any], config: NoisyStudentConfig, events: Events = silent, **arguments: Any
) -> dict[str, Any]:
    """See `noisystudent_core.planning.plan`; what is measured of this machine is kept in the home folder."""
    return engine.run("plan", config, {}, "", events, rates_folder=str(home_folder() / "rates"), **arguments)


def log_plan(engine: Engine[Any], config: NoisyStudentConfig, log: Log) -> None:
    """Log what a run takes, from rates that are known already; nothing is measured, and no run fails over it."""
    try:
        found = planned(engine, config, num_devices=engine.num_slots, measuring_s=0.0, counting_s=COUNTING_S)
    except (NoisyStudentError, TimeoutError, RuntimeError) as error:
        log.info("no plan of this run (%s); `noisy-student plan` makes one", str(error) or type(error).__name__)
        return
    log.info("%s", found["brief"])
