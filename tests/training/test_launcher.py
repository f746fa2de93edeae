"""What the process that starts others makes of what they say, and of what they leave unsaid."""

from typing import Any

import pytest

from noisystudent_core.errors import NonFiniteLossError, WorkerDiedError
from noisystudent_core.events import Events, silent
from noisystudent_core.training.launcher import _Lines
from tests.stages.small import Told

LOST = ("error", (7.0, "RuntimeError", "connection closed by peer"))
DIVERGED = ("error", (8.0, "NonFiniteLossError", "loss is nan at step 3"))


def heard(*said_by_rank: list[Any], events: Events = silent) -> Any:
    """What comes of processes that said this, each in order, and ended."""
    lines = _Lines(len(said_by_rank), events)
    for line, said in zip(lines.theirs, said_by_rank, strict=True):
        for word in [("started", None), *said]:
            line.send(word)
    lines.close()
    lines.listen()
    return lines.result()


def test_the_first_process_s_result_and_events_are_those_of_all() -> None:
    told = Told([])
    events = [("event", ("metrics", {"step": step, "values": {"a": 0.1 * step}})) for step in range(3)]
    assert heard([*events, ("result", [1])], [("result", None)], events=told) == [1]
    assert told.events == [content for _, content in events]


@pytest.mark.parametrize(
    ("said_by_rank", "error", "message"),
    [
        ([[("result", 1)], []], WorkerDiedError, "process 1 of the 2 of a fit was killed"),
        ([[LOST], []], WorkerDiedError, "process 1 of the 2"),
        ([[], [LOST]], WorkerDiedError, "process 0 of the 2"),
        ([[LOST], [DIVERGED]], NonFiniteLossError, "^loss is nan at step 3$"),
        ([[], [DIVERGED]], NonFiniteLossError, "^loss is nan at step 3$"),  # ended by the launcher, in consequence
        ([[LOST], [("error", (6.0, "KeyError", "'name'"))]], RuntimeError, "^KeyError: 'name'$"),
    ],
)
def test_of_several_errors_that_is_raised_which_explains_the_others(
    said_by_rank: list[list[Any]], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        heard(*said_by_rank)


def test_processes_that_never_started_are_said_to_have_died() -> None:
    lines = _Lines(2, silent)
    lines.close()
    lines.listen()
    with pytest.raises(WorkerDiedError, match=r"process [01] of the 2 of a fit was killed"):
        lines.result()


def test_an_error_of_the_listener_ends_the_fit() -> None:
    def events(event: str, **fields: Any) -> None:
        raise ZeroDivisionError(event)

    with pytest.raises(ZeroDivisionError, match="metrics"):
        heard([("event", ("metrics", {})), ("result", 1)], [("result", None)], events=events)
