"""What is in sets of images, in Prefect and MLflow."""

from prefect import task
from prefect.client.schemas.objects import State

from noisystudent_core.config import InspectConfig, InspectPartsConfig
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import Artifact
from noisystudent_core.storage.prepared import PAGE, inspection_inputs, put_page, refuse_leaks
from tasks.by_part import by_part
from tasks.progress import show_link, show_markdown, show_table
from tasks.running import RETRIES, Ref, Run, run_stage

TEXT = "inspection.md"


@task(name="inspect", task_run_name="inspect", **RETRIES)
def inspect_images(
    images: dict[str, Ref], looked_at: dict[str, Ref], config: InspectConfig, out: str, run: Run, allow_leaks: bool
) -> State[str]:
    """Count, compare and picture sets of images, whose parts were looked at before; the page goes beside `out`.

    Raises `DataError` for evaluation images among those for training, unless that is allowed.
    """
    state = run_stage("inspect", config, inspection_inputs(images, looked_at), run, "inspect")
    folder = Folder.at(str(state.data))
    text, page = folder.read(TEXT).decode(), put_page(folder.url, out)
    show_markdown("inspection", f"{text}\nWith charts and pictures: `{page}`\n")
    findings = Artifact.open(folder.url).manifest.facts["findings"]
    if findings:
        show_table("findings", findings, "What stands out in the images")
    for name in (TEXT, PAGE):
        run.tracker.log_text(run.mlflow_run_id, name, folder.read(name).decode())
    if (address := run.tracker.run_url(run.mlflow_run_id)) is not None:
        show_link("inspection-page", f"{address}/artifacts/{PAGE}", "The inspection with charts and pictures")
    refuse_leaks(folder.url, allow_leaks)
    return state


def inspect_all(images: dict[str, Ref], out: str, run: Run, allow_leaks: bool = False) -> Ref:
    """Submit the look at every image, part by part, and the inspection of all sets."""
    config = InspectPartsConfig()
    looked_at = {
        name: by_part(f"look at {name}", "inspect_parts", config, {"images": url}, run) for name, url in images.items()
    }
    return inspect_images.submit(images, looked_at, InspectConfig(), out, run, allow_leaks)
