"""What a flow run leaves when it ends badly: the reason, the last good stage, and the command to go on with.

Hooks of a crash or a cancellation run in the worker's process: this module and the flows import there, without torch.
"""

import inspect
import json
import shlex
from collections.abc import Callable
from typing import Any

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import TaskRunSort
from prefect.context import FlowRunContext
from prefect.exceptions import ParameterTypeError
from prefect.logging.loggers import flow_run_logger
from prefect.utilities.callables import get_parameter_defaults

from noisystudent_core.errors import ConfigurationError, NoisyStudentError, RootError
from noisystudent_core.storage.secrets import refuse_secrets
from tasks.lost_runs import hold, is_stage, last_stage, let_go, report_lost_runs
from tasks.plain_errors import tell_plainly
from tasks.progress import artifact_key

HOW_TO_GO_ON = "how-to-go-on"
# by flow
COMMANDS = {"noisy-student": "run", "ablate": "ablate", "evaluate-model": "evaluate-model", "prepare-data": "prepare"}
ARGUMENTS = ("checkpoint", "sources", "out")
EACH = {"overrides": "set", "folders": "folder", "unlabelled": "unlabelled"}  # a mapping: once for each key=value
OPTIONS = {"seeds": "seed", "nets": "net", "suites": "suite"}  # a list: once for each


def begun(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Hold this run's mark while it lasts, and tell of others that were killed here before."""
    tell_plainly()
    hold(str(flow_run.id), f"`{go_on_command(flow, flow_run)}`")  # first: an earlier attempt of it may have been killed
    if number := report_lost_runs():
        flow_run_logger(flow_run, flow).warning("%d earlier runs had been killed here; they are Crashed now", number)


def ended(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """The run ended well."""
    let_go(str(flow_run.id))


def interrupted(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Write what happened and how to go on into the flow run, as its artifact `how-to-go-on`, and into its log."""
    lines = _lines(flow, flow_run, state)
    let_go(str(flow_run.id))
    flow_run_logger(flow_run, flow).error("%s", "\n".join(lines))
    artifact = ArtifactCreate(
        type="markdown",
        key=artifact_key(HOW_TO_GO_ON),
        description="What happened, and how to go on",
        data="\n\n".join(lines),
        flow_run_id=flow_run.id,
    )
    with get_client(sync_client=True) as client:
        client.create_artifact(artifact)


INTERRUPTION: dict[str, Any] = {
    "on_running": [begun],
    "on_completion": [ended],
    "on_failure": [interrupted],
    "on_crashed": [interrupted],
    "on_cancellation": [interrupted],
}


def numbered(words: str) -> Callable[[], str]:
    """A namer of flow runs: the flow's name, `words` with the run's parameters put in, and a running number."""

    def name() -> str:
        context = FlowRunContext.get()
        assert context is not None and context.flow is not None and context.flow_run is not None
        if "#" in context.flow_run.name:
            return context.flow_run.name  # a retry keeps its number
        ours = FlowFilter(name=FlowFilterName(any_=[context.flow.name]))
        with get_client(sync_client=True) as client:
            number = client.count_flow_runs(flow_filter=ours)
        parameters = get_parameter_defaults(context.flow.fn) | (context.parameters or {})
        return f"{context.flow.name} {_shown(words.format(**parameters))} #{number}"

    return name


def go_on_command(flow: Flow[Any, Any], flow_run: FlowRun) -> str:
    """The command that goes on with an interrupted run: what is finished is reused."""
    if flow_run.deployment_id is not None:
        return f"prefect flow-run retry {flow_run.id}"
    defaults = {name: each.default for name, each in inspect.signature(flow.fn).parameters.items()}
    given = {k: v for k, v in flow_run.parameters.items() if v is not None and v != defaults.get(k, inspect.Parameter)}
    words = [word for name, value in given.items() for word in _words(name, value)]
    return shlex.join(["noisy-student", COMMANDS.get(flow.name, flow.name), *map(_shown, words)])


def _words(name: str, value: Any) -> list[str]:
    """A parameter as the command line takes it."""
    if name in ARGUMENTS:
        return [value] if isinstance(value, str) else [*value]
    if name == "class_names":
        return ["--class-names", ",".join(value)]
    if name == "register_model":
        return [] if value else ["--no-register"]
    if value is True:
        return [f"--{name.replace('_', '-')}"]
    if isinstance(value, dict):
        option = f"--{EACH[name]}"
        return [word for key, each in value.items() for word in (option, f"{key}={_text(each)}")]
    if isinstance(value, (list, tuple)):
        return [word for each in value for word in (f"--{OPTIONS[name]}", str(each))]
    return [f"--{name.replace('_', '-')}", str(value)]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _shown(word: str) -> str:
    """A word as it may be repeated: an address that was refused for its credentials is not."""
    try:
        refuse_secrets(word)
    except ConfigurationError:
        return "ADDRESS"
    return word


def _lines(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> list[str]:
    stage = _last_good_stage(flow_run)
    return [
        f"**{state.name}**: {state.message or 'no reason was given'}",
        f"Last good stage: {stage}; what is finished is reused." if stage else "No stage was finished.",
        _remedy(flow, flow_run, state),
    ]


def _remedy(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> str:
    command = f"`{go_on_command(flow, flow_run)}`"
    if flow_run.parent_task_run_id is not None:
        return "To go on: the flow run that this one is part of says how."
    if not _is_wrong_input(state):
        return f"To go on: {command}"
    if flow_run.deployment_id is None:
        return f"Correct what the reason names, then: {command}"
    return f"Correct what the reason names, then: {command}; where a parameter is wrong, start a new run with another."


def _is_wrong_input(state: State[Any]) -> bool:
    error = getattr(state.data, "result", state.data)  # Prefect may have wrapped it in a record
    if isinstance(error, RootError):  # it may be reached the next time, or never
        return True
    return isinstance(error, ParameterTypeError) or (isinstance(error, NoisyStudentError) and not error.retryable)


def _last_good_stage(flow_run: FlowRun) -> str | None:
    """The name of the stage that was completed last.

    The server records task runs some time after they ended: until it has the last one that the run's own process wrote
    down, that one counts. It knows more where that process was elsewhere, or where runs are parts of this one.
    """
    noted = last_stage(str(flow_run.id))
    recorded = [name for name in _completed(flow_run) if is_stage(name)]
    return noted if noted and noted not in recorded else next(iter(recorded), None)


def _completed(flow_run: FlowRun) -> list[str]:
    """Names of the task runs that the server has as completed, the last one first."""
    completed = TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.COMPLETED])))
    with get_client(sync_client=True) as client:
        found = client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id])),
            task_run_filter=completed,
            sort=TaskRunSort.END_TIME_DESC,
        )
    return [run.name for run in found]
