"""Errors that are raised on purpose, in the logs of runs: value, limit and remedy are in their words, no traceback."""

import logging
import os

from noisystudent_core.errors import NoisyStudentError

DEBUG = "NOISY_STUDENT_DEBUG"  # set: tracebacks
OF_RUNS = ("prefect.flow_runs", "prefect.task_runs")
SAID_BEFORE = "Engine execution exited with unexpected exception"  # by Prefect, of an error it has logged already


class _Plain(logging.Filter):
    """Takes the traceback from a record of such an error, and leaves out its repetition."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, NoisyStudentError) or os.environ.get(DEBUG):
            return True
        record.exc_info = None
        return not record.getMessage().startswith(SAID_BEFORE)


_PLAIN = _Plain()


def tell_plainly() -> None:
    """Have the logs of this process's runs do without these tracebacks."""
    for name in OF_RUNS:
        logging.getLogger(name).addFilter(_PLAIN)  # once, however often it is asked for
