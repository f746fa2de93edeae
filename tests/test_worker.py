"""The child process by itself, spoken to in its own protocol: whatever a stage prints, events stay readable."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from noisystudent_core import stages, worker
from noisystudent_core.recipes import digits

# the real worker, with two calls more
SCRIPT = """
import os, subprocess, sys
from noisystudent_core import worker
from noisystudent_core.config import ExclusionsConfig
from noisystudent_core.errors import SourceError

def shout(config, inputs, root, events, *, word):
    print(word)
    print('{"event": "result", "value": "forged"}', flush=True)
    os.write(1, b"straight to the descriptor\\n")
    subprocess.run(["echo", "from a child"], check=True)
    events("message", text=word)
    return [word, inputs["name"], root]

def fail(config, inputs, root, events, *, kind):
    raise {"ours": SourceError, "theirs": KeyError}[kind]("s3://nowhere: no image in it\\ntwo lines")

worker.CALLS |= {"shout": (ExclusionsConfig, shout), "fail": (ExclusionsConfig, fail)}
worker.main()
"""
REQUEST: dict[str, Any] = {"config": {}, "inputs": {"name": "ü"}, "root": "r"}


class Child:
    def __init__(self) -> None:
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self.process = subprocess.Popen([sys.executable, "-c", SCRIPT], text=True, **pipes)

    def ask(self, call: str, request: dict[str, Any] = REQUEST, **arguments: Any) -> list[dict[str, Any]]:
        """Every event of a request, the last one its result or error."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({**request, "call": call, "arguments": arguments}) + "\n")
        self.process.stdin.flush()
        events = [self.hear()]
        while events[-1]["event"] not in ("result", "error"):
            events.append(self.hear())
        return events

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    started = Child()
    assert started.hear() == {"event": "ready"}
    yield started
    started.process.kill()
    started.process.communicate()


def test_whatever_is_printed_events_stay_whole(child: Child) -> None:
    assert child.ask("shout", word="hört") == [
        {"event": "message", "text": "hört"},
        {"event": "result", "value": ["hört", "ü", "r"]},
    ]


def test_an_error_is_told_by_its_class_and_message(child: Child) -> None:
    ours, theirs = child.ask("fail", kind="ours"), child.ask("fail", kind="theirs")
    message = "s3://nowhere: no image in it\ntwo lines"
    assert ours == [{"event": "error", "type": "SourceError", "message": message}]
    assert theirs == [{"event": "error", "type": "KeyError", "message": repr(message)}]
    assert child.ask("shout", word="still here")[-1]["event"] == "result"


def test_a_stage_gives_what_it_gives_in_this_process(child: Child) -> None:
    config = digits()
    request = REQUEST | {"config": config.model_dump(mode="json"), "inputs": {}}
    assert child.ask("check", request) == [{"event": "result", "value": stages.check(config, {}, "")}]


def test_a_setting_that_is_no_setting_is_an_error(child: Child) -> None:
    (event,) = child.ask("exclusions", REQUEST | {"config": {"unknown": 1}})
    assert (event["event"], event["type"]) == ("error", "ValidationError")


def test_worker_ends_with_its_input(child: Child) -> None:
    out, err = child.process.communicate(timeout=10)  # closes the input
    assert child.process.returncode == 0
    assert out == ""
    assert "straight to the descriptor" in err
    assert "from a child" in err
    assert "SourceError: s3://nowhere" in err  # the whole traceback, for the last words


def test_every_stage_can_be_called() -> None:
    assert set(worker.CALLS) == set(stages.__all__)
