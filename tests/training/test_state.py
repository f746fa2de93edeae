"""A fit that was cut short goes on from its saved state as if it never had been, bit for bit on a CPU."""

from pathlib import Path
from typing import Any

import pytest

from noisystudent_core import interruption
from noisystudent_core.config import FitConfig, InputNoise, OptimizerConfig, PseudoLabelConfig
from noisystudent_core.errors import ConfigurationError, InterruptedFitError, NonFiniteLossError
from noisystudent_core.events import Events, silent
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.training import loop
from noisystudent_core.training.batches import Batches
from noisystudent_core.training.history import History
from noisystudent_core.training.state import save_state
from noisystudent_core.training.step import TrainState
from tests.training.small import build, fit_config, labelled, pseudo_labelled, resident, same_weights

NOISY: dict[str, Any] = {
    "noise": InputNoise(num_ops=2, magnitude=9, crop="translate", crop_padding_px=2, flip=True),
    "dropout": 0.3,
    "stochastic_depth": 0.3,
    "ema_decay": 0.9,
    "steps": 9,
    "num_validations": 3,
    "log_every_steps": 2,
}
OPTIMIZERS = {
    name: OptimizerConfig(name=name, learning_rate=0.01, learning_rate_batch=4) for name in ("rmsprop", "sgd", "adamw")
}


class Killed(Exception):
    """What ends a fit in the middle."""


class Dying(Batches):
    """Batches until one step, where the process would be killed."""

    dies_at = 10**9

    def __call__(self, step: int) -> Any:
        if step == self.dies_at:
            raise Killed
        return super().__call__(step)


def run(
    config: FitConfig, root: str, *, dies_at: int | None = None, every: int = 2, events: Events = silent
) -> tuple[TrainState, History]:
    execution = config.execution.model_copy(update={"state_every_steps": every})
    config = config.model_copy(update={"execution": execution})
    state = loop.start(build(config), config)
    batches = resident(config, labelled(), pseudo_labelled() if config.pseudo_labels else None, kind=Dying)
    if dies_at is not None:
        batches.dies_at = dies_at

    def validate(net: Any) -> dict[str, float]:
        return {"validation/top1": net.get_submodule("net.fc").weight.sum().item()}

    return state, loop.fit(state, config, batches, 12, validate, events, Folder.at(root))


def same(first: tuple[TrainState, History], second: tuple[TrainState, History]) -> bool:
    equal = same_weights(first[0].net, second[0].net) and same_weights(first[0].ema.model, second[0].ema.model)
    return equal and first[1] == second[1]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", ["cosine", "step_exponential", "steps"])
@pytest.mark.parametrize("pseudo_labels", [None, PseudoLabelConfig(unlabelled_ratio=2)])
def test_resumed_fit_is_bit_identical(
    optimizer: str, schedule: str, pseudo_labels: PseudoLabelConfig | None, tmp_path: Path
) -> None:
    config = fit_config(
        pseudo_labels=pseudo_labels, optimizer=OPTIMIZERS[optimizer], schedule=schedule, warmup_epochs=1, **NOISY
    )
    whole = run(config, str(tmp_path / "whole"))
    for dies_at in (1, 4, 7):  # before the first state, right after one, between two
        root = str(tmp_path / str(dies_at))
        with pytest.raises(Killed):
            run(config, root, dies_at=dies_at)
        assert same(run(config, root), whole), dies_at


def test_two_states_are_kept(tmp_path: Path) -> None:
    run(fit_config(**NOISY), str(tmp_path), every=1)
    steps = sorted(int(path.name.split(".")[0]) for path in tmp_path.glob("*.safetensors"))
    assert steps == [7, 8]  # none after the last step: the checkpoint follows


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, flip])
def test_damaged_state_is_passed_over_for_the_one_before_and_said_so(damage: Any, tmp_path: Path) -> None:
    config = fit_config(**NOISY)
    whole = run(config, str(tmp_path / "whole"))
    root = tmp_path / "root"
    with pytest.raises(Killed):
        run(config, str(root), dies_at=7)
    newest = max(root.glob("*.safetensors"))
    damage(newest)
    told: list[str] = []
    again = run(config, str(root), events=lambda event, **fields: told.append(fields.get("text", "")))
    assert same(again, whole)
    assert newest.name in told[0] and "damaged or cut short; going on from the state before it" in told[0]
    assert told[1].startswith("going on after step 4, from ")


def test_state_of_another_configuration_is_refused_by_the_setting_that_differs(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(fit_config(**NOISY), str(tmp_path), dies_at=5)
    settings: dict[str, Any] = {**NOISY, "ema_decay": 0.8}
    other = fit_config(**settings)
    with pytest.raises(
        ConfigurationError, match=r"fit with train\.ema_decay=0\.9, this one has 0\.8; delete the folder"
    ):
        run(other, str(tmp_path))


def test_how_a_fit_is_carried_out_may_change_in_between(tmp_path: Path) -> None:
    config = fit_config(**NOISY)
    whole = run(config, str(tmp_path / "whole"), every=3)
    with pytest.raises(Killed):
        run(config, str(tmp_path / "root"), dies_at=5)
    assert same(run(config, str(tmp_path / "root"), every=100), whole)


def test_asked_to_stop_it_saves_its_state_and_goes_on_later(tmp_path: Path) -> None:
    config, root = fit_config(**NOISY), str(tmp_path / "root")
    whole = run(config, str(tmp_path / "whole"))

    def stop_at_step_5(event: str, **fields: Any) -> None:
        if event == "metrics" and fields["step"] == 6:
            assert interruption.request()

    with pytest.raises(InterruptedFitError, match=r"asked to stop after step 6, saved as .*; run it again") as stopped:
        run(config, root, every=100, events=stop_at_step_5)
    assert stopped.value.retryable
    assert not interruption.request()  # nobody heeds it now
    assert same(run(config, root), whole)


def test_divergence_names_the_last_good_state(tmp_path: Path) -> None:
    huge = OptimizerConfig(name="sgd", learning_rate=1e15, learning_rate_batch=4, weight_decay=0)
    config = fit_config(optimizer=huge, steps=60, warmup_epochs=20)
    with pytest.raises(NonFiniteLossError, match=r"the last good state is .*/\d{12}\.\w+\.safetensors"):
        run(config, str(tmp_path), every=1)


def test_states_of_equal_fits_are_equal_files(tmp_path: Path) -> None:
    config = fit_config(**NOISY)
    state = loop.start(build(config), config)
    first, second = (save_state(state, History(), config, Folder.at(str(tmp_path / name))) for name in "ab")
    assert Path(first).name == Path(second).name
