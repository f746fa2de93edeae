"""A stage that several processes of a machine, or of several machines, carry out together."""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, TypeVar

import torch

from noisystudent_core.config.settings import FitConfig
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.events import Events, silent
from noisystudent_core.models.architectures import device
from noisystudent_core.storage.manifest import Inputs, Manifest
from noisystudent_core.storage.stage import Place, Stage, Written, stage
from noisystudent_core.training.distributed import ALONE, Group, check_processes, joined
from noisystudent_core.training.launcher import launch

Config = TypeVar("Config", bound=FitConfig, contravariant=True)
Work = Callable[[Config, Inputs, Place, Events, Group], Written]


def spread(work: Work[Config]) -> Stage[Config]:
    """Make a stage of work that is done by every process of a group, of which the first one alone writes and reports.

    Where this process is in a group, begun by torchrun or by Ray Train, the others of it call the stage likewise. Else
    `execution.num_processes` are started. Key, lease and manifest are the first process's, or the starting one's.
    """

    @wraps(work)
    def run(config: Any, inputs: Inputs, root: str, events: Events = silent, *, out: str | None = None) -> Manifest:
        with joined() as group:
            if group is None:
                return stage(partial(_start, run))(config, inputs, root, events, out=out)
            check_processes(config, group.share.world, device())
            if group.is_first:
                return group.from_first(stage(_led(work, group))(config, inputs, root, events, out=out))
            return _follow(work, group, config, inputs)

    return run


def _start(run: Any, config: Any, inputs: Inputs, place: Place, events: Events) -> Written:
    """Do the work in as many processes as the configuration says, this one alone where that is one."""
    num_processes = _num_processes(config, place)
    check_processes(config, num_processes, device())
    if num_processes == 1:
        return run.__wrapped__(config, inputs, place, events, ALONE)
    return launch(_work, num_processes, events, run, config, inputs, place)


def _work(run: Any, config: Any, inputs: Inputs, place: Place, events: Events, group: Group) -> Written:
    """The work of a stage, which is pickled by its name."""
    return run.__wrapped__(config, inputs, place, events, group)


def _num_processes(config: FitConfig, place: Place) -> int:
    if not place.folder.url.startswith("memory:"):
        return config.num_processes(torch.cuda.device_count())
    if (wanted := config.execution.num_processes or 1) > 1:
        raise ConfigurationError(
            f"execution.num_processes={wanted} under {place.folder.url}: other processes do not see a root in memory; "
            "give one on disk or in a bucket"
        )
    return 1


def _led(work: Work[Any], group: Group) -> Callable[[Any, Inputs, Place, Events], Written]:
    """The work of the first process, of which the others hear where it is to be done."""

    def led(config: Any, inputs: Inputs, place: Place, events: Events) -> Written:
        return work(config, inputs, group.from_first(place), events, group)

    return led


def _follow(work: Work[Any], group: Group, config: Any, inputs: Inputs) -> Manifest:
    """Take part where the first process says that there is work, and return the manifest that it found or made."""
    told = group.from_first(None)
    if isinstance(told, Place):
        work(config, inputs, told, silent, group)
        told = group.from_first(None)
    return told
