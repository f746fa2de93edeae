"""The child process by itself, spoken to in its own protocol: whatever a stage prints, events stay readable."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from noisystudent_core import stages, worker
from noisystudent_core.recipes import digits
from noisystudent_core.storage.manifest import Artifact
from tests.stages.small import FIT, Small

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

worker.CALLS |= {"shout": (ExclusionsConfig, "__main__"), "fail": (ExclusionsConfig, "__main__")}
worker.main()
"""
REQUEST: dict[str, Any] = {"config": {}, "inputs": {"name": "ü"}, "root": "r"}


class Child:
    def __init__(self) -> None:
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self.process = subprocess.Popen([sys.executable, "-c", SCRIPT], text=True, **pipes)

    def ask(self, call: str, request: dict[str, Any] = REQUEST, **arguments: Any) -> list[dict[str, Any]]:
        """Every event of a request, the last one its result or error."""
        self.tell(call, request, **arguments)
        return self.hear_until("result", "error")

    def tell(self, call: str, request: dict[str, Any], **arguments: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({**request, "call": call, "arguments": arguments}) + "\n")
        self.process.stdin.flush()

    def hear_until(self, *last: str) -> list[dict[str, Any]]:
        """Events up to the first of these."""
        events = [self.hear()]
        while events[-1]["event"] not in last:
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


def test_after_a_sigterm_a_fit_saves_its_state_and_the_worker_goes_on(
    child: Child, write_sources: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    small = Small(str(tmp_path))
    data = small.prepare_all(write_sources(small.root))
    inputs = {"labelled": data["labelled"], "validation": data["validation"]}
    config = FIT.model_copy(update={"train": FIT.train.model_copy(update={"steps": 200})})
    request = {"config": config.model_dump(mode="json"), "inputs": inputs, "root": small.root}
    child.tell("fit", request)
    child.hear_until("progress")
    child.process.send_signal(signal.SIGTERM)
    *_, error = child.hear_until("error")
    assert error["type"] == "InterruptedFitError"
    assert len(list(tmp_path.glob("state/*/*.safetensors"))) == 1
    *events, result = child.ask("fit", request)
    assert result["event"] == "result"
    assert next(event["text"] for event in events if event["event"] == "message").startswith("going on after step")
    alone = stages.fit(config, inputs, str(tmp_path / "alone"))
    assert Artifact.open(f"{small.root}/checkpoints/{alone.key}").manifest.num_rows == alone.num_rows


def test_worker_ends_with_its_input(child: Child) -> None:
    out, err = child.process.communicate(timeout=10)  # closes the input
    assert child.process.returncode == 0
    assert out == ""
    assert "straight to the descriptor" in err
    assert "from a child" in err
    assert "SourceError: s3://nowhere" in err  # the whole traceback, for the last words


def test_every_stage_can_be_called() -> None:
    assert set(worker.CALLS) == {*stages.__all__, "plan"}


def test_an_idle_worker_ends_with_a_sigterm() -> None:
    child = Child()
    assert child.hear() == {"event": "ready"}
    child.process.send_signal(signal.SIGTERM)
    assert child.process.wait(10) == 128 + signal.SIGTERM
    child.process.communicate()
