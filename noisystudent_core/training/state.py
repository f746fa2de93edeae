"""The state of a fit, saved every so many steps: a fit that was cut short goes on from it as if it never had been.

A state is one safetensors file, `<step>.<digest>.safetensors`, published whole; the two newest are kept. Its metadata
has the history so far and the configuration it belongs to.
"""

import json
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from noisystudent_core.config.settings import FitConfig
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.events import Events
from noisystudent_core.storage.digests import digest
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.training.distributed import ALONE, Group
from noisystudent_core.training.history import History
from noisystudent_core.training.step import TrainState

FORMAT = 1
KEPT = 2


def save_state(state: TrainState, history: History, config: FitConfig, folder: Folder, group: Group = ALONE) -> str:
    """Save the state after `state.step` steps, drop all but the two newest, and return the file's address.

    The first process of `group` does it, the others wait for it.
    """
    return group.from_first(_save(state, history, config, folder) if group.is_first else None)


def _save(state: TrainState, history: History, config: FitConfig, folder: Folder) -> str:
    meta = {"format": FORMAT, "step": state.step, "config": _identity(config), "history": history.rows}
    data = save(_tensors(state), {"state": json.dumps(meta)})
    name = f"{state.step:012d}.{digest(data)}.safetensors"
    folder.publish(name, data)
    for older in _names(folder)[KEPT:]:
        folder.remove(older)
    return f"{folder.url}/{name}"


def resume(
    state: TrainState, history: History, config: FitConfig, folder: Folder, events: Events, group: Group = ALONE
) -> str | None:
    """Bring a fresh state to the newest one saved, and return its address; None where there is none.

    A file that is damaged or cut short is passed over for the one before it, with a `message`; the first process of
    `group` decides which one all go on from. Raises ConfigurationError, naming the setting, for a state of another
    configuration.
    """
    found = _newest(config, folder, events) if group.is_first else None
    name = group.from_first(found and found[0])
    if name is None:
        return None
    data = found[1] if found else folder.read(name)
    meta = _meta(data)
    _restore(state, load(data), meta["step"])
    history.rows[:] = [(step, metric, value) for step, metric, value in meta["history"]]
    return f"{folder.url}/{name}"


def _newest(config: FitConfig, folder: Folder, events: Events) -> tuple[str, bytes] | None:
    """Name and content of the newest whole state, which must be this configuration's."""
    for name in _names(folder):
        data = folder.read(name)
        if digest(data) != name.split(".")[1]:
            events("message", text=f"{folder.url}/{name}: damaged or cut short; going on from the state before it")
            continue
        _check_same(_meta(data)["config"], _identity(config), f"{folder.url}/{name}")
        return name, data
    return None


def _names(folder: Folder) -> list[str]:
    """Saved states, the newest first."""
    return sorted((name for name in folder.sizes() if name.endswith(".safetensors")), reverse=True)


def _tensors(state: TrainState) -> dict[str, Tensor]:
    """Everything that changes, by name; numbers of the optimiser as tensors of no dimension."""
    named = {f"net.{name}": tensor for name, tensor in state.net.state_dict().items()}
    named |= {f"ema.{name}": tensor for name, tensor in state.ema.model.state_dict().items()}
    for index, values in state.optimizer.state_dict()["state"].items():
        named |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
    return {name: tensor.detach().contiguous().cpu().clone() for name, tensor in named.items()}


def _restore(state: TrainState, tensors: dict[str, Tensor], step: int) -> None:
    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    state.net.load_state_dict(under("net."))
    state.ema.model.load_state_dict(under("ema."))
    values: dict[int, dict[str, Any]] = {}
    for path, tensor in under("optimizer.").items():
        index, _, name = path.partition(".")
        values.setdefault(int(index), {})[name] = tensor
    groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": values, "param_groups": groups})
    state.step = step


def _meta(data: bytes) -> dict[str, Any]:
    """The metadata, from the file's JSON header."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["state"])


def _identity(config: FitConfig) -> dict[str, Any]:
    """What a state belongs to: every setting but those that say how."""
    return config.model_dump(mode="json", exclude=set(config.not_in_key))


def _check_same(found: dict[str, Any], wanted: dict[str, Any], where: str) -> None:
    differing = [path for path in sorted(_leaves(found) | _leaves(wanted)) if _at(found, path) != _at(wanted, path)]
    if differing:
        path = differing[0]
        raise ConfigurationError(
            f"{where}: is the state of a fit with {path}={_at(found, path)!r}, this one has {_at(wanted, path)!r}; "
            "delete the folder to start anew, or give the setting its old value"
        )


def _leaves(tree: Any, path: str = "") -> set[str]:
    if isinstance(tree, dict) and tree:
        return {leaf for key, branch in tree.items() for leaf in _leaves(branch, f"{path}.{key}".lstrip("."))}
    return {path}


def _at(tree: Any, path: str) -> Any:
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree
