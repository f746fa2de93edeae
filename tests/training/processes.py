"""What each of the processes does that tests/training/test_distributed.py starts."""

import os
import pickle
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from noisystudent_core import interruption
from noisystudent_core.config import FitConfig
from noisystudent_core.errors import InterruptedFitError
from noisystudent_core.events import Events, silent
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.training import loop
from noisystudent_core.training.batches import Batches
from noisystudent_core.training.distributed import ALONE, Group, joined
from noisystudent_core.training.step import TrainState
from tests.training.small import LabelledImages, PseudoLabelledImages, build, labelled, pseudo_labelled, resident

Images = TypeVar("Images", LabelledImages, PseudoLabelledImages)
Weights = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Fitted:
    """What a fit ends with: averaged weights, buffers included, by name; and its history."""

    weights: Weights
    history: list[tuple[int, str, float]]


class Interrupted(Batches):
    """Batches until one step, at which something happens to this process."""

    at: int | None = None

    def __call__(self, step: int) -> Any:
        if step == self.at:
            self.happen()
        return super().__call__(step)

    def happen(self) -> None:
        interruption.request()


class Killed(Interrupted):
    def happen(self) -> None:
        Path(os.environ["KILLED_AT"]).write_text(str(time.time()))
        os.kill(os.getpid(), signal.SIGKILL)


def fit(
    config: FitConfig,
    folder: str,
    events: Events,
    group: Group = ALONE,
    kind: type[Batches] = Batches,
    at: int = 0,
    device: str = "cpu",
) -> Fitted:
    """A whole fit; the last process's batches are of a `kind` to which something happens before step `at`."""
    state = loop.start(build(config).to(device), config, group)
    is_last = group.share.rank == group.share.world - 1
    pseudo = on(device, pseudo_labelled()) if config.pseudo_labels else None
    batches = resident(config, on(device, labelled()), pseudo, group.share, kind if is_last else Batches)
    if isinstance(batches, Interrupted):
        batches.at = at

    def validate(net: Any) -> dict[str, float]:
        return {"validation/sum": sum(parameter.sum().item() for parameter in net.parameters())}

    history = loop.fit(state, config, batches, 12, validate, events, Folder.at(folder), group)
    return Fitted(weights(state), history.rows)


def on(device: str, images: Images) -> Images:
    """The images, and what is known of them, in a device's memory; copies are counted on the host."""
    tensors = {name: value for name, value in vars(images).items() if name in ("images", "labels", "probabilities")}
    return replace(images, **{name: tensor.to(device) for name, tensor in tensors.items()})


def weights(state: TrainState) -> Weights:
    return {name: tensor.cpu().numpy() for name, tensor in state.ema.model.state_dict().items()}


def fits(
    root: str, configs: Mapping[str, FitConfig], stopped: FitConfig, damaged: FitConfig, events: Events, group: Group
) -> dict[str, Any]:
    """Every fit of `configs`, and what else is asked of a group; the folder of a fit is its name, under `root`."""
    found: dict[str, Any] = {name: fit(config, f"{root}/{name}", events, group) for name, config in configs.items()}
    own = Path(root, f"written by {group.share.rank}")
    found["alone in its folder"] = fit(damaged, str(own), events, group)
    found["stopped"] = asked_to_stop(stopped, f"{root}/stopped", events, group)
    asked_to_stop(damaged, f"{root}/damaged", events, group)
    if group.is_first:
        newest = max(Path(root, "damaged").glob("*.safetensors"))
        newest.write_bytes(newest.read_bytes()[:-1])
    group.from_first(None)
    found["from the state before"] = fit(damaged, f"{root}/damaged", events, group)
    return found


def asked_to_stop(config: FitConfig, folder: str, events: Events, group: Group) -> list[str]:
    """What each process says when the last one is asked to stop at step 4."""
    said: list[Any] = [None] * group.share.world
    try:
        fit(config, folder, events, group, Interrupted, at=4)
    except InterruptedFitError as error:
        dist.all_gather_object(said, str(error), group=group.host)
    return said


def killed(config: FitConfig, folder: str, events: Events, group: Group) -> Fitted:
    """A fit whose last process is killed at step 5."""
    return fit(config, folder, events, group, Killed, at=5)


def on_one_gpu(rank: int, world: int, config: FitConfig, folder: str) -> None:
    """A fit by several processes that share a GPU, in a group that was begun before; the first one keeps the result."""
    torch.cuda.set_device(0)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    with joined() as group:
        assert group is not None
        fitted = fit(config, folder, silent, group, device="cuda")
    if rank == 0:
        Path(folder, "fitted.pickle").write_bytes(pickle.dumps(fitted))
    dist.destroy_process_group()
