"""`noisy-student plan`, and the line that a run begins with."""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows import cli, plan_command
from noisystudent_core import worker
from noisystudent_core.errors import ConfigurationError, WorkerDiedError
from noisystudent_core.events import Events, silent
from noisystudent_core.planning import plan as plan_of_core
from noisystudent_core.recipes import configure
from tasks import planning


class Here:
    """An engine whose worker is this process."""

    num_slots = 1

    def run(self, call: str, config: Any, inputs: Any, root: str, events: Events = silent, **arguments: Any) -> Any:
        settings = json.loads(json.dumps({"config": config.model_dump(mode="json"), "arguments": arguments}))
        found = worker.serve({"call": call, "inputs": inputs, "root": root, **settings}, events)
        return json.loads(json.dumps(found))  # as it comes from another process


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Here:
    engine = Here()

    @contextmanager
    def opened(name: str, run_id: str) -> Iterator[Here]:
        yield engine

    monkeypatch.setattr(plan_command, "opened", opened)
    monkeypatch.setenv("NOISY_STUDENT_HOME", str(tmp_path))
    return engine


def test_the_plan_is_shown_and_written(tmp_path: Path) -> None:
    words = ["plan", "--recipe", "imagenet_b0", "--images", "300000000", "--device", "H200", "--devices", "8"]
    file = tmp_path / "plan.json"
    done = CliRunner().invoke(cli.app, [*words, "--measuring-s", "0", "--json", str(file)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    for said in ("unlabelled: 300,000,000 images", "fit student 1", "8 x H200", "What moves it".lower()):
        assert said in done.stdout
    written = json.loads(file.read_text())
    assert {row["stage"] for row in written["stages"]} >= {"prepare unlabelled", "label by teacher 1", "report"}
    assert written["totals"]["num_devices"] == 8


def test_the_students_are_those_of_the_run() -> None:
    words = ["plan", "--recipe", "cifar10", "--num-iterations", "1", "--measuring-s", "0", "--device", "H200"]
    own, larger = (
        CliRunner().invoke(cli.app, [*words, *student], catch_exceptions=False).stdout
        for student in ([], ["--student", "cifar_resnet110"])
    )
    assert "fit student 1" in own and "fit student 2" not in own
    assert own != larger


def test_wrong_words_are_errors() -> None:
    run = CliRunner().invoke
    assert run(cli.app, ["plan", "--images", "0"]).exit_code == 2
    assert run(cli.app, ["plan", "--devices", "0"]).exit_code == 2
    wrong = run(cli.app, ["plan", "--device", "abacus", "--measuring-s", "0"])
    assert isinstance(wrong.exception, ConfigurationError)  # `main` makes a paragraph of it
    assert "'abacus': must be one of H200" in str(wrong.exception)


def test_a_run_begins_with_its_plan(here: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "a run"):
        planning.log_plan(here, configure("digits"), logging.getLogger("a run"))
    assert "plan: About" in caplog.text
    assert "fit student 1" in caplog.text


@pytest.mark.parametrize("error", [WorkerDiedError("killed"), RuntimeError("TimeoutError: ")])
def test_no_run_fails_over_its_plan(
    here: Any, error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: Any, **named: Any) -> None:
        raise error

    monkeypatch.setattr(here, "run", fail)
    with caplog.at_level(logging.INFO, "a run"):
        planning.log_plan(here, configure("digits"), logging.getLogger("a run"))
    assert "no plan of this run" in caplog.text


def test_counting_is_given_up_after_a_while(here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_of_core, "count", lambda url: time.sleep(0.3))
    with pytest.raises(TimeoutError):
        planning.planned(here, configure("digits"), counting_s=0.01, measuring_s=0.0)
