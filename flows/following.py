"""A deployment's run as its starter sees it: a line for each stage that ended, and on a terminal what is under way."""

import time
from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType, TaskRun
from prefect.client.schemas.sorting import TaskRunSort
from rich.console import Console

POLL_S = 2.0
PAGE = 100  # task runs asked for at once
ENDED = (StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED)


def follow(client: SyncPrefectClient, run_id: UUID, console: Console | None = None) -> FlowRun:
    """Show a run on standard error, or `console`, until it has ended; returns it in its final state.

    Each stage is told once, as it ends: how, and how long it took. A run that nobody follows any more goes on.
    """
    console = console or Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    told: set[UUID] = set()
    with console.status("waiting for a worker") as under_way:
        while True:
            run = client.read_flow_run(run_id)  # before its stages, so that none is left out at the end
            ended = [stage for stage in _stages(client, run_id, ENDED) if stage.id not in told]
            for stage in reversed(ended):
                console.print(_line(stage))
            told.update(stage.id for stage in ended)
            if run.state is not None and run.state.is_final():
                return run
            if running := [stage.name for stage in _stages(client, run_id, (StateType.RUNNING,))]:
                under_way.update(", ".join(running))
            time.sleep(POLL_S)


def _stages(client: SyncPrefectClient, run_id: UUID, states: tuple[StateType, ...]) -> Iterator[TaskRun]:
    """Those in one of the states, the latest to end first."""
    for page in count():
        found = client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])),
            task_run_filter=TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=list(states)))),
            sort=TaskRunSort.END_TIME_DESC,
            limit=PAGE,
            offset=page * PAGE,
        )
        yield from found
        if len(found) < PAGE:
            return


def _line(stage: TaskRun) -> str:
    ended = stage.end_time.astimezone().strftime("%H:%M:%S") if stage.end_time else "        "
    took = timedelta(seconds=round(stage.total_run_time.total_seconds()))
    return f"{ended}  {stage.name:44s} {(stage.state_name or '').lower():10s} {took}"
