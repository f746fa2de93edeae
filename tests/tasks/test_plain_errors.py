"""What the logs of runs say of an error, and what they leave out."""

import logging
import sys

import pytest

from noisystudent_core.errors import ConfigurationError
from tasks.plain_errors import OF_RUNS, tell_plainly
from tasks.running import RETRIES, remember_success


def logged(name: str, words: str, *values: str, error: Exception | None = None) -> str | None:
    """The text that a run's logger passes on, a traceback with it; None where it passes nothing on."""
    tell_plainly()
    logger = logging.getLogger(name)
    try:
        raise error or ZeroDivisionError
    except Exception:
        details = sys.exc_info() if error else None
    record = logger.makeRecord(name, logging.ERROR, __file__, 1, words, values, details)
    return logging.Formatter().format(record) if logger.filter(record) else None


@pytest.mark.parametrize("name", OF_RUNS)
def test_an_error_on_purpose_is_told_without_a_traceback(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, words = ConfigurationError("threshold=2: must be below 1"), "Encountered exception during execution: %s"
    assert logged(name, words, "threshold=2", error=ours) == "Encountered exception during execution: threshold=2"
    assert logged(name, "Engine execution exited with unexpected exception", error=ours) is None
    assert "Traceback" in (logged(name, words, "", error=ZeroDivisionError()) or "")
    monkeypatch.setenv("NOISY_STUDENT_DEBUG", "1")
    assert "Traceback" in (logged(name, words, "threshold=2", error=ours) or "")


@pytest.mark.parametrize("words", ["Running hook %r in response to entering state", "Hook %r finished running"])
def test_the_hook_of_every_task_is_not_told_of(words: str) -> None:
    assert RETRIES["on_completion"] == [remember_success]
    assert logged("prefect.task_runs", words, remember_success.__name__) is None
    assert logged("prefect.task_runs", words, "remember_failure") is not None


def test_filters_do_not_add_up() -> None:
    tell_plainly()
    before = [len(logging.getLogger(name).filters) for name in OF_RUNS]
    tell_plainly()
    assert [len(logging.getLogger(name).filters) for name in OF_RUNS] == before
