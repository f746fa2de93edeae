"""A run told line by line to whoever started it."""

import io
import threading
import time
from collections.abc import Iterator
from contextvars import copy_context

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.context import get_run_context
from prefect.settings import PREFECT_API_URL, temporary_settings
from rich.console import Console

from flows.following import follow

SECONDS = 0.5


@pytest.fixture(autouse=True)
def server(prefect_url: str) -> Iterator[None]:
    with temporary_settings({PREFECT_API_URL: prefect_url}):
        yield


@task
def stage(ends_well: bool = True) -> None:
    time.sleep(SECONDS)
    if not ends_well:
        raise ValueError("no such image")


def told(ends_well: bool) -> tuple[str, list[str]]:
    """How a run of two stages ended that was followed from before its first, and the lines that told of it."""
    created, names = threading.Event(), []

    @flow
    def two_stages() -> None:
        names.append(get_run_context().flow_run.id)  # pyright: ignore
        created.set()
        stage.with_options(task_run_name="fit teacher")()
        stage.with_options(task_run_name="fit student 1")(ends_well)

    running = threading.Thread(target=copy_context().run, args=(lambda: two_stages(return_state=True),))
    running.start()
    assert created.wait(60)
    file = io.StringIO()
    with get_client(sync_client=True) as client:
        ended = follow(client, names[0], Console(file=file, width=100))
    running.join()
    return str(ended.state_name), file.getvalue().splitlines()


def test_each_stage_is_told_once_as_it_ends() -> None:
    state, lines = told(ends_well=True)
    assert state == "Completed"
    assert [line.split()[1:-1] for line in lines] == [
        ["fit", "teacher", "completed"],
        ["fit", "student", "1", "completed"],
    ]


def test_a_stage_that_failed_is_told() -> None:
    state, lines = told(ends_well=False)
    assert state == "Failed"
    assert [line.split()[-2] for line in lines] == ["completed", "failed"]
