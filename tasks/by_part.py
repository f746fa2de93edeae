"""A stage over image parts: a plan of what is missing, groups of it mapped over the slots, and one manifest."""

from typing import Any

from prefect import get_run_logger, task
from prefect.client.schemas.objects import State
from prefect.utilities.annotations import unmapped

from noisystudent_core.config.settings import PartSettings
from noisystudent_core.config.shares import num_groups
from noisystudent_core.errors import WorkerDiedError
from noisystudent_core.storage.failures import Failures
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import Artifact, artifact_url, finished, input_digests
from tasks.progress import pass_progress, show_table
from tasks.running import RETRIES, Metrics, Ref, Run, run_stage

# a part that ends its worker does so `failures.LIMIT` times, and may take others' names with it before it is known
MORE_RETRIES = RETRIES | {"retries": 8, "retry_delay_seconds": [2, 4, 8, 16, 16, 16, 16, 16]}


@task(name="plan", task_run_name="plan: {name}", **RETRIES)
def plan(name: str, call: str, config: PartSettings, inputs: dict[str, Ref], run: Run) -> list[dict[str, Any]]:
    """Groups of the image parts on which this work is not done yet: {"parts": indices, "num_images"}."""
    url = artifact_url(config, input_digests(inputs), run.root)
    run.use(url)
    if finished(url) is not None:
        return []
    num_parts = len(Artifact.open(inputs[SOURCES[call]]).manifest.parts)
    wanted = num_groups(num_parts, run.engine.num_slots)
    groups = run.engine.run(f"plan_{call}", config, inputs, run.root, num_groups=wanted)
    parts, images = (sum(len(group["parts"]) for group in groups), sum(group["num_images"] for group in groups))
    get_run_logger().info("%s: %d parts, %d images to do, in %d groups", name, parts, images, len(groups))
    pass_progress(run.id, name).expect(parts=parts, images=images)
    return groups


@task(name="group", task_run_name="{name}: a group", **MORE_RETRIES)
def group(name: str, call: str, work: dict[str, Any], config: PartSettings, inputs: dict[str, Ref], run: Run) -> int:
    """Do what is missing of one group's parts; returns the number of images done."""
    at_work: dict[str, str] = {}  # the part whose result is due, and where its failures are noted

    def listen(event: str, **fields: Any) -> None:
        if event == "part":
            at_work.update(fields)
        else:
            show(event, **fields)

    with pass_progress(run.id, name).group() as show:
        try:
            return run.engine.run(f"{call}_group", config, inputs, run.root, listen, parts=work["parts"])
        except WorkerDiedError as error:
            if at_work:
                Failures(Folder.at(at_work["failures"])).add(at_work["name"], str(error).splitlines()[0])
            raise


@task(name="gather", task_run_name="{name}", **RETRIES)
def gather(
    name: str,
    call: str,
    config: PartSettings,
    inputs: dict[str, Ref],
    groups: Any,
    run: Run,
    iteration: int | None,
    metrics: Metrics | None,
) -> State[str]:
    """Publish the manifest over all parts, and show those that were set aside."""
    state = run_stage(call, config, inputs, run, name, iteration, metrics)
    manifest = Artifact.open(str(state.data)).manifest
    if aside := manifest.facts["set_aside"]:
        get_run_logger().warning("%s: %d parts are set aside, the first as %s", name, len(aside), aside[0]["reason"])
        show_table(f"set-aside-{name}", aside, f"Parts set aside: {name}")
    return state


SOURCES = {
    "predict": "images",
    "fingerprint": "unlabelled",
    "inspect_parts": "images",
}  # the input whose parts a call works on


def by_part(
    name: str,
    call: str,
    config: PartSettings,
    inputs: dict[str, Ref],
    run: Run,
    iteration: int | None = None,
    metrics: Metrics | None = None,
) -> Ref:
    """Submit a whole pass over the parts; `inputs` are URLs or futures of them, the result is the artifact's URL.

    Waits for the plan, so that the UI shows the groups.
    """
    planned = plan.submit(name, call, config, inputs, run)
    fixed = {"config": unmapped(config), "inputs": unmapped(inputs), "run": unmapped(run)}
    groups = group.map(unmapped(name), unmapped(call), planned, **fixed)
    return gather.submit(name, call, config, inputs, groups, run, iteration, metrics)
