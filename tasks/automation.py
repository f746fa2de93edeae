"""The automation that ends flow runs whose process is gone: a server learns of it only by heartbeats that stay away.

`noisy-student up` installs it on the local server; on another one, with PREFECT_API_URL set:
`python -m tasks.automation`. Installing it again changes nothing, or brings it up to date.
"""

from datetime import timedelta

from prefect.automations import AutomationCore, EventTrigger, Posture
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.settings import get_current_settings

from tasks.lost_runs import report_lost_runs

NAME = "noisy-student: flow runs without a heartbeat"
FLOWS = ("noisy-student", "ablate", "evaluate-model", "prepare-data")
MISSED = 4  # heartbeats in a row after which a process counts as gone; a busy machine may delay one or two
SHORTEST_S = 30  # Prefect sends them no faster
ENDED = ("Completed", "Failed", "Crashed", "Cancelled", "Cancelling", "Suspended", "Paused")
MESSAGE = (
    "Its process sends no heartbeat any more: it was killed, or its machine is gone. Finished stages are kept. To go "
    "on: `prefect flow-run retry ID` for a deployment's run, else the same `noisy-student` command again."
)


def heartbeat_s() -> int:
    """Seconds between the heartbeats of flow runs, as PREFECT_FLOWS_HEARTBEAT_FREQUENCY has it."""
    return max(get_current_settings().flows.heartbeat_frequency or SHORTEST_S, SHORTEST_S)


def lost_heartbeat(within_s: float) -> AutomationCore:
    """Crashed for every run of our flows that was heard once, and then neither again nor ending for `within_s`."""
    heartbeat = "prefect.flow-run.heartbeat"
    return AutomationCore(
        name=NAME,
        description=f"Sets runs to Crashed that are not heard of for {within_s:.0f} s.",
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.role": "flow", "prefect.resource.name": list(FLOWS)},
            for_each={"prefect.resource.id"},
            after={heartbeat},
            expect={heartbeat, *(f"prefect.flow-run.{name}" for name in ENDED)},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=within_s),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message=MESSAGE, force=False)],
    )


def install(within_s: float | None = None) -> str:
    """Have the automation once on the server of PREFECT_API_URL; what was done: created, updated or unchanged."""
    wanted = lost_heartbeat(within_s or MISSED * heartbeat_s())
    with get_client(sync_client=True) as client:
        found = client.read_automations_by_name(NAME)
        if not found:
            client.create_automation(wanted)
            return "created"
        for extra in found[1:]:  # two installed it at once
            client.delete_automation(extra.id)
        if _essence(found[0]) == _essence(wanted):
            return "unchanged"
        client.update_automation(found[0].id, wanted)
        return "updated"


def _essence(automation: AutomationCore) -> object:
    """What the automation does; the server adds ids of its own."""
    trigger = automation.trigger
    assert isinstance(trigger, EventTrigger)
    fields = {"match", "match_related", "for_each", "after", "expect", "posture", "threshold", "within"}
    actions = [action.model_dump() for action in automation.actions]
    return trigger.model_dump(include=fields), actions, automation.enabled


if __name__ == "__main__":
    print(f"automation {NAME!r}: {install()}")
    print(f"flow runs whose process here was gone: {report_lost_runs()}")
