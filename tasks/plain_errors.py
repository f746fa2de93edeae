"""What the logs of runs leave out: tracebacks of errors that are raised on purpose, and our own bookkeeping.

Such an error's words hold value, limit and remedy.
"""

import logging
import os

from noisystudent_core.errors import NoisyStudentError

DEBUG = "NOISY_STUDENT_DEBUG"  # set: tracebacks
OF_RUNS = ("prefect.flow_runs", "prefect.task_runs")
SAID_BEFORE = "Engine execution exited with unexpected exception"  # by Prefect, of an error it has logged already
BOOKKEEPING = ("Running hook 'remember_success'", "Hook 'remember_success' finished")  # two lines for each task run


class _Plain(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, NoisyStudentError) or os.environ.get(DEBUG):
            return not text.startswith(BOOKKEEPING)
        record.exc_info = None
        return not text.startswith(SAID_BEFORE)


_PLAIN = _Plain()


def tell_plainly() -> None:
    """Have the logs of this process's runs do without these."""
    for name in OF_RUNS:
        logging.getLogger(name).addFilter(_PLAIN)  # once, however often it is asked for
