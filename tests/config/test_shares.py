"""How many processes a fit has, and which numbers are refused before anything runs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from noisystudent_core.config import ExecutionConfig, NoisyStudentConfig, apply_overrides
from noisystudent_core.config.shares import check_shares, num_processes
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.recipes import digits
from tests.training.small import fit_config


@given(
    st.tuples(st.integers(1, 64), st.integers(0, 64)).map(lambda numbers: tuple(12 * number for number in numbers)),
    st.sampled_from([1, 2, 3, 4]),
    st.integers(0, 16),
)
def test_as_many_processes_as_gpus_that_share_a_step_evenly(
    images_per_step: tuple[int, ...], micro_batches: int, num_gpus: int
) -> None:
    found = num_processes(None, images_per_step, micro_batches, num_gpus)
    assert 1 <= found <= max(num_gpus, 1)
    check_shares(images_per_step, micro_batches, found)
    assert num_processes(None, images_per_step, micro_batches, found) == found  # of those it was given
    for more in range(found + 1, num_gpus + 1):
        with pytest.raises(ConfigurationError):
            check_shares(images_per_step, micro_batches, more)


def test_a_number_that_is_set_is_kept() -> None:
    assert num_processes(2, (4, 8), 1, num_gpus=0) == 2  # a CPU divides as it is told
    assert num_processes(2, (4, 8), 1, num_gpus=4) == 2
    with pytest.raises(ConfigurationError, match=r"num_processes=4: must be at most 2, the GPUs .* leave it out"):
        num_processes(4, (4, 8), 1, num_gpus=2)


@pytest.mark.parametrize(
    ("batch_size", "processes", "micro_batches", "named"),
    [(3, 2, 1, "num_processes=2"), (1, 2, 1, "num_processes=2"), (6, 2, 2, "num_processes=2 times micro_batches=2")],
)
def test_a_batch_that_the_processes_cannot_share_is_refused(
    batch_size: int, processes: int, micro_batches: int, named: str
) -> None:
    config = fit_config(batch_size=batch_size)
    with pytest.raises(ConfigurationError, match=f"^{named}: must divide the {batch_size} labelled and 0 unlabelled"):
        check_shares(config.images_per_step, micro_batches, processes)
    with pytest.raises(ValidationError, match="must divide"):
        fit = fit_config(batch_size=batch_size, micro_batches=1).model_dump()
        fit |= {"execution": ExecutionConfig(num_processes=processes)}
        fit["train"]["micro_batches"] = micro_batches
        type(config).model_validate(fit)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"execution.num_processes": 7}, "num_processes=7: must divide"),
        ({"iterations.1.train.micro_batches": 7}, "micro_batches=7: must divide"),
    ],
)
def test_every_fit_of_a_run_is_looked_at(overrides: dict[str, int], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        apply_overrides(digits(), overrides)


def test_a_teacher_that_is_not_fitted_may_have_any_batch() -> None:
    tree = digits().model_dump(mode="json")
    tree["teacher"] |= {"checkpoint": "s3://bucket/checkpoints/key"}
    tree["teacher"]["train"]["micro_batches"] = 7
    roles = len(NoisyStudentConfig.model_validate(tree).fits())
    assert roles == len(digits().fits()) - 1
