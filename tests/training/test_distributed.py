"""Two processes fit as one does, stop together, go on together or alone, and none is left when one dies."""

import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.multiprocessing.spawn import spawn
from torch.nn.modules.batchnorm import _NormBase

from noisystudent_core.config import (
    ExecutionConfig,
    FitConfig,
    InputNoise,
    ModelConfig,
    OptimizerConfig,
    PseudoLabelConfig,
)
from noisystudent_core.data.streams import Share
from noisystudent_core.errors import ConfigurationError, WorkerDiedError
from noisystudent_core.events import silent
from noisystudent_core.training.distributed import ALONE, Group, check_batch_norm
from noisystudent_core.training.launcher import launch
from tests.training.processes import Fitted, fit, fits, killed, on_one_gpu
from tests.training.small import build, fit_config

STUDENT = PseudoLabelConfig(unlabelled_ratio=2)
NOISE = InputNoise(num_ops=2, magnitude=9, crop="translate", crop_padding_px=2, flip=True)
WEIGHTINGS = ("concat_mean", "sum_of_means", "per_labelled")


def without_batch_norm(**train: Any) -> FitConfig:
    optimizer = OptimizerConfig(name="sgd", learning_rate=0.01, learning_rate_batch=4)
    settings = {"steps": 20, "ema_decay": 0.5, "log_every_steps": 5, "optimizer": optimizer}
    config = fit_config(pseudo_labels=STUDENT, noise=NOISE, **settings, **train)
    model = ModelConfig(name="test_convnext", resolution_px=32, dropout=0, stochastic_depth=0)
    return config.model_copy(update={"model": model})


# each weighting, with micro-batches and without, with a limited gradient and without
ALIKE = {
    f"{weighting} {micro_batches}": without_batch_norm(
        loss_weighting=weighting, micro_batches=micro_batches, clip_norm=0.5 if micro_batches == 2 else None
    )
    for weighting in WEIGHTINGS
    for micro_batches in (1, 2)
}
ALIKE["each kind apart"] = without_batch_norm(batch_norm="split")  # two forward passes to a backward pass
STOPPED = ALIKE["concat_mean 1"]
# batch norm, and noise that each process draws for itself
NOISY = fit_config(
    pseudo_labels=STUDENT, noise=NOISE, dropout=0.3, stochastic_depth=0.3, steps=8, ema_decay=0.9, num_validations=2
).model_copy(update={"execution": ExecutionConfig(state_every_steps=3)})
TOGETHER = {
    **ALIKE,
    "noisy": NOISY,
    "killed": NOISY,  # where another test had it killed before
}


@pytest.fixture(scope="module", autouse=True)
def environment(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("KILLED_AT", str(tmp_path_factory.mktemp("killed") / "at"))
        yield patch


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def killing(root: Path) -> tuple[Exception, float]:
    """What a fit of two processes ends with when one of them is killed, and how many seconds later."""
    with pytest.raises(WorkerDiedError) as raised:
        on_cpu(killed, NOISY, str(root / "killed"))
    return raised.value, time.time() - float(Path(os.environ["KILLED_AT"]).read_text())


@pytest.fixture(scope="module")
def together(root: Path, killing: object) -> dict[str, Any]:
    """What two processes made of `TOGETHER`, and of fits that were broken off."""
    return on_cpu(fits, str(root), TOGETHER, STOPPED, NOISY)


def on_cpu(work: Callable[..., Any], *arguments: Any) -> Any:
    """What two processes make of some work, wherever the tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        return launch(work, 2, silent, *arguments)


def largest_difference(first: Fitted, second: Fitted) -> float:
    assert first.weights.keys() == second.weights.keys()
    return max(float(np.abs(array - second.weights[name]).max()) for name, array in first.weights.items())


def same(first: Fitted, second: Fitted) -> bool:
    return largest_difference(first, second) == 0 and first.history == second.history


@pytest.mark.parametrize("name", ALIKE)
def test_two_processes_fit_as_one_does(name: str, together: dict[str, Any], tmp_path: Path) -> None:
    alone = fit(ALIKE[name], str(tmp_path), silent)
    assert alone.history[0][0] == 5 and alone.history[-1][0] == 20
    assert largest_difference(together[name], alone) < 1e-5
    for (step, metric, value), (_, _, expected) in zip(together[name].history, alone.history, strict=True):
        if metric.startswith("train/"):
            assert value == pytest.approx(expected, rel=1e-5), (step, metric)


def test_the_first_process_alone_writes(together: dict[str, Any], root: Path) -> None:
    assert len(list((root / "written by 0").glob("*.safetensors"))) == 2
    assert not (root / "written by 1").exists()
    assert same(together["alone in its folder"], together["noisy"])  # and it is the same a second time


def test_a_killed_process_ends_the_others_in_seconds_and_the_fit_can_be_tried_again(
    killing: tuple[WorkerDiedError, float],
) -> None:
    error, seconds = killing
    assert seconds < 10
    assert error.retryable
    assert "process 1 of the 2 of a fit was killed" in str(error)


def test_after_a_kill_the_fit_goes_on_as_if_it_never_had_been(together: dict[str, Any]) -> None:
    assert same(together["killed"], together["noisy"])


def test_asked_to_stop_one_stops_all_at_the_same_step(together: dict[str, Any], root: Path) -> None:
    first, second = together["stopped"]
    assert first == second
    assert first.startswith(f"asked to stop after step 6, saved as {root}/stopped/")  # asked in the fifth step


def test_a_fit_goes_on_with_another_number_of_processes(together: dict[str, Any], root: Path, tmp_path: Path) -> None:
    told: list[str] = []

    def events(event: str, **fields: Any) -> None:
        told.append(fields.get("text", ""))

    assert together["stopped"]
    resumed, alone = fit(STOPPED, str(root / "stopped"), events), fit(STOPPED, str(tmp_path), silent)
    assert told[0].startswith("going on after step 6, from ")
    assert largest_difference(resumed, alone) < 1e-5  # the same images followed


def test_a_damaged_state_is_passed_over_by_all(together: dict[str, Any]) -> None:
    assert same(together["from the state before"], together["noisy"])


def test_each_process_draws_noise_of_its_own() -> None:
    seeds = [Group(Share(rank, 3)).seed(0, 5) for rank in range(3)]
    assert len(set(seeds)) == 3
    assert seeds[0] == ALONE.seed(0, 5)


def test_batch_norm_over_processes_keeps_the_net_as_it_is() -> None:
    """timm's batch-norm layers may hold the activation, which torch's own conversion would leave out."""
    model = ModelConfig(name="test_efficientnet", resolution_px=32, dropout=0, stochastic_depth=0)
    config = fit_config(sync_batch_norm=True).model_copy(update={"model": model})
    net, images = build(config).eval(), torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        before = net(images)
        converted = Group(Share(1, 2)).synchronised(net, config.train)
        torch.testing.assert_close(converted(images), before)
    norms = [module for module in converted.modules() if isinstance(module, _NormBase)]
    assert norms and all(isinstance(norm, torch.nn.SyncBatchNorm) for norm in norms)


def test_batch_norm_over_processes_is_refused_on_a_cpu() -> None:
    train = fit_config(sync_batch_norm=True).train
    with pytest.raises(ConfigurationError, match=r"train\.sync_batch_norm=True on cpu: .* leave it off, or fit on"):
        check_batch_norm(train, torch.device("cpu"))
    check_batch_norm(train, torch.device("cuda"))
    check_batch_norm(fit_config().train, torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("net", ["test_resnet", "test_efficientnet"])  # the latter's batch norm has activations in it
def test_batch_norm_over_processes_is_that_of_the_whole_batch(net: str, tmp_path: Path) -> None:
    config = fit_config(pseudo_labels=STUDENT, noise=NOISE, precision="float32", sync_batch_norm=True)
    config = config.model_copy(update={"model": config.model.model_copy(update={"name": net})})
    spawn(on_one_gpu, (2, config, str(tmp_path)), nprocs=2)
    alone = fit(config, str(tmp_path / "alone"), silent, device="cuda")
    fitted = pickle.loads((tmp_path / "fitted.pickle").read_bytes())
    assert largest_difference(fitted, alone) < 1e-4
