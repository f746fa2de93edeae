"""The check before a run outlives a worker's death, as tasks do; what is wrong is said at once."""

from typing import Any

import pytest

from noisystudent_core.errors import ConfigurationError, WorkerDiedError
from noisystudent_core.recipes import digits
from tasks.session import CHECKS, check_models


class Workers:
    """An engine whose workers end as they are told to."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.calls = list(errors), 0

    def run(self, *_: Any, **__: Any) -> None:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)


def check(*errors: Exception) -> int:
    workers: Any = Workers(*errors)
    check_models(workers, digits(), "root")
    return workers.calls


def test_a_worker_that_dies_over_the_check_is_replaced() -> None:
    assert check(WorkerDiedError("killed"), WorkerDiedError("killed")) == CHECKS


def test_but_not_for_ever() -> None:
    with pytest.raises(WorkerDiedError, match="the third"):
        check(*(WorkerDiedError(f"the {word}") for word in ("first", "second", "third")))


def test_wrong_settings_are_said_at_once() -> None:
    with pytest.raises(ConfigurationError):
        check(ConfigurationError("threshold=1.5"))
