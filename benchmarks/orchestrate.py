"""What the flow costs per image part: as many parts as 300 million images have, of one image each.

    python -m benchmarks.orchestrate [--parts 30000]

Runs `noisy-student run` on a Prefect server of its own (SQLite), twice: the unlabelled images one a part, and 10,000 a
part. What the first run's labelling pass took longer is the cost of its parts. Ends with status 1 where a promise is
broken: a part without a label, a group run that is missing or not completed, more than 500 of them, 10 s of planning.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import TaskRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from benchmarks.measuring import circumstances
from noisystudent_core.recipes import EXAMPLES
from noisystudent_core.storage.manifest import Artifact
from noisystudent_core.storage.verify import artifact_urls
from tasks import servers

IMAGES_PER_PART = 10_000  # of the run that is compared with
MAX_GROUPS, MAX_PLANNING_S = 500, 10.0
ROLE = "label by selector"
SHORT = ["--num-iterations", "1", "--shrink", "0.02", "--threshold", "0", "--num-images-per-class", "30"]
SETTINGS = ["batch_size=8", "teacher.train.warmup_epochs=0", "iterations.*.train.warmup_epochs=0"]


@dataclass(frozen=True)
class Run:
    """One run of the flow, by what its Prefect server and its root say."""

    tasks: list[TaskRun]
    num_parts: int  # of the selector's predictions
    num_rows: int

    @property
    def planning_s(self) -> float:
        """The plan of the pass, from its task run."""
        (plan,) = self.named(f"plan: {ROLE}")
        return plan.total_run_time.total_seconds()

    @property
    def groups(self) -> list[TaskRun]:
        """The pass's groups."""
        return self.named(f"{ROLE}: a group")

    @property
    def pass_s(self) -> float:
        """The pass, from its plan to its manifest."""
        (plan,), (gather,) = self.named(f"plan: {ROLE}"), self.named(ROLE)
        assert plan.start_time is not None and gather.end_time is not None
        return (gather.end_time - plan.start_time).total_seconds()

    def named(self, name: str) -> list[TaskRun]:
        """Task runs of this name."""
        return [run for run in self.tasks if run.name == name]


def main(num_parts: int) -> None:
    """Print a table, and what is broken."""
    with tempfile.TemporaryDirectory() as scratch:
        sources = write_sources(Path(scratch), num_parts)
        many = run(Path(scratch) / "many", sources, images_per_part=1)
        few = run(Path(scratch) / "few", sources, images_per_part=IMAGES_PER_PART)
    overhead_s = (many.pass_s - few.pass_s) / (many.num_parts - few.num_parts)
    whole_part_s = few.pass_s / few.num_rows * IMAGES_PER_PART
    print(f"{circumstances('prefect')}\n")
    print("| | one image a part | 10,000 a part |\n| --- | --- | --- |")
    print(f"| parts, images | {many.num_parts:,}, {many.num_rows:,} | {few.num_parts:,}, {few.num_rows:,} |")
    print(f"| group task runs | {len(many.groups)} | {len(few.groups)} |")
    print(f"| planning, s | {many.planning_s:.1f} | {few.planning_s:.1f} |")
    print(f"| the pass, s | {many.pass_s:.0f} | {few.pass_s:.0f} |\n")
    print(f"overhead per part {overhead_s * 1000:.1f} ms, {overhead_s / whole_part_s:.2%} of a part of 10,000 images")
    broken = [problem for problem, is_so in problems(many, num_parts) if is_so]
    print("\n".join(broken))
    sys.exit(1 if broken else 0)


def problems(run: Run, num_parts: int) -> list[tuple[str, bool]]:
    """What may not be, and whether it is."""
    states = {task.state_name for task in run.tasks}
    return [
        (f"{run.num_parts} of {num_parts} parts have labels", run.num_parts != num_parts),
        (f"{len(run.groups)} groups: at most {MAX_GROUPS}", len(run.groups) > MAX_GROUPS),
        (f"states {states}: all must be completed", states != {"Completed"}),
        (f"planning took {run.planning_s:.1f} s: at most {MAX_PLANNING_S:.0f}", run.planning_s > MAX_PLANNING_S),
        ("groups that the plan logged are not all recorded", len(run.groups) != expected_groups(num_parts)),
    ]


def expected_groups(num_parts: int) -> int:
    """One for 60 parts, at most 500: what `tasks.by_part` promises on a single slot."""
    return min(MAX_GROUPS, max(4, -(-num_parts // 60)))


def write_sources(folder: Path, num_images: int) -> dict[str, str]:
    """A hundred digits for each labelled set; unlabelled pictures of 8 x 8 pixels, all different."""
    urls = {}
    for split in ("labelled", "validation", "test"):
        urls[split] = str(folder / f"{split}.parquet")
        pq.write_table(pq.read_table(EXAMPLES / "digits" / f"{split}.parquet").slice(0, 100), urls[split])
    images = [b"P6 8 8 255\n" + number.to_bytes(4) * 48 for number in range(num_images)]
    urls["unlabelled"] = str(folder / "unlabelled.parquet")
    pq.write_table(pa.table({"image": images}), urls["unlabelled"])
    return urls


def run(folder: Path, sources: dict[str, str], images_per_part: int) -> Run:
    """Run the flow in a process of its own, on a server of its own."""
    with servers.temporary_prefect_server(folder / "home") as url, temporary_settings({PREFECT_API_URL: url}):
        environment = os.environ | {
            "NOISY_STUDENT_HOME": str(folder / "home"),
            "PREFECT_API_URL": url,
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        }
        given = [word for split, source in sources.items() for word in (f"--{split}", source)]
        settings = [f"--set={setting}" for setting in [*SETTINGS, f"data.images_per_part={images_per_part}"]]
        command = [sys.executable, "-m", "flows", "run", "--root", str(folder / "root"), *given, *SHORT, *settings]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        tasks = task_runs()
    manifests = [Artifact.open(url).manifest for url in artifact_urls(str(folder / "root"))]
    labels = max((found for found in manifests if found.stage == "predict"), key=lambda found: found.num_rows)
    return Run(tasks, len(labels.parts), labels.num_rows)


def task_runs() -> list[TaskRun]:
    """Every task run of the one flow run."""
    found: list[TaskRun] = []
    with get_client(sync_client=True) as client:
        (flow,) = client.read_flow_runs()
        ours = FlowRunFilter(id=FlowRunFilterId(any_=[flow.id]))
        while page := client.read_task_runs(flow_run_filter=ours, limit=200, offset=len(found)):
            found += page
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=30_000)
    main(parser.parse_args().parts)
