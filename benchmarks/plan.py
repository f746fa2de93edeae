"""The plan of a run beside the run: seconds of each stage, predicted and actual.

`python -m benchmarks.plan` plans the digits, measuring what is not known yet, runs them on a root of their own (another
empty one: `--root FOLDER`), and prints the table. Promised: within 25% for each stage over 20 s. Actual are seconds of
the worker at a stage's calls, without what waits for a slot and without Prefect and MLflow; beside them the worker's
own CPU seconds, by which a machine that others load can be judged. Another recipe: `--recipe cifar10 --shrink 0.002
--num-iterations 1 --set sources.labelled=...`.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measuring import circumstances
from flows import console
from noisystudent_core.config import parse_assignments
from noisystudent_core.events import Events
from noisystudent_core.recipes import configure
from tasks.engines import opened
from tasks.local_engine import LocalSlot
from tasks.planning import planned

PROMISED, OVER_S = 0.25, 20.0


@dataclass
class Spent:
    """What a stage's calls took."""

    wall_s: float = 0.0
    cpu_s: float = 0.0


@dataclass(frozen=True)
class Row:
    """A stage, predicted and actual."""

    stage: str
    predicted_s: float
    known_by: str
    actual: Spent

    @property
    def ratio(self) -> float:
        """Predicted to actual."""
        return self.predicted_s / max(1e-3, self.actual.wall_s)

    @property
    def is_promised(self) -> bool:
        """Whether the promise is made for it."""
        return max(self.predicted_s, self.actual.wall_s) > OVER_S

    @property
    def missed(self) -> bool:
        """Whether the promise is broken."""
        return self.is_promised and abs(self.ratio - 1) > PROMISED

    def __str__(self) -> str:
        said = "missed" if self.missed else "kept" if self.is_promised else ""
        times = f"{self.predicted_s:.1f} | {self.actual.wall_s:.1f} | {self.actual.cpu_s:.1f}"
        return f"| {self.stage} | {times} | {self.ratio:.2f} | {self.known_by} | {said} |"


def main(recipe: str, root: str, shrink: float, num_iterations: int | None, assignments: Sequence[str]) -> None:
    """Print the table; exit status 1 if the promise is missed."""
    given = {"shrink": shrink, "num_iterations": num_iterations, "overrides": parse_assignments(list(assignments))}
    with opened("local", "plan") as engine:
        before = time.perf_counter()
        plan = planned(engine, configure(recipe, **given))
        planning_s = time.perf_counter() - before
    with timed() as spent:
        before = time.perf_counter()
        console.run_flow("noisy_student", {"recipe": recipe, "root": root, "register_model": False} | given)
        run_s = time.perf_counter() - before
    print(f"\n{circumstances('torch', 'timm')}; planned in {planning_s:.0f} s\n")
    print("| stage | predicted, s | actual, s | of the worker's cores, s | predicted : actual | known by | promise |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    found = rows(plan["stages"], spent)
    print("\n".join(map(str, found)))
    sums = sum(row.predicted_s for row in found), sum(row.actual.wall_s for row in found)
    print(f"\nall stages: predicted {sums[0]:.0f} s, actual {sums[1]:.0f} s; the run with its servers: {run_s:.0f} s")
    missed = [row.stage for row in found if row.missed]
    print(
        f"missed: {', '.join(missed) or 'none'} of {sum(row.is_promised for row in found)} stages over {OVER_S:.0f} s"
    )
    sys.exit(len(missed) > 0)


def rows(predicted: Sequence[dict[str, Any]], spent: dict[str, Spent]) -> list[Row]:
    """A row for each stage of either."""
    known = {row["stage"]: row for row in predicted}
    return [
        Row(name, known[name]["seconds"], known[name]["known_by"], spent.get(name, Spent()))
        if name in known
        else Row(name, 0.0, "not planned", spent[name])
        for name in dict.fromkeys([*known, *spent])
    ]


@contextmanager
def timed() -> Iterator[dict[str, Spent]]:
    """Seconds that workers take over the calls of each stage of the runs in the block."""
    spent: dict[str, Spent] = defaultdict(Spent)
    serve = LocalSlot.serve

    def serve_timed(self: LocalSlot, request: dict[str, Any], events: Events, others: Sequence[LocalSlot]) -> Any:
        from prefect.runtime import task_run  # by now its settings are in the environment

        name = stage_of(task_run.name or request["call"])
        before, cpu_before = time.perf_counter(), _cpu_s(self)
        try:
            return serve(self, request, events, others)
        finally:
            spent[name].wall_s += time.perf_counter() - before
            spent[name].cpu_s += _cpu_s(self) - cpu_before

    LocalSlot.serve = serve_timed
    try:
        yield spent
    finally:
        LocalSlot.serve = serve


def stage_of(task_run_name: str) -> str:
    """The stage that a task run belongs to: plan, group or gathering of a pass over parts, or the stage itself."""
    return task_run_name.removeprefix("plan: ").removesuffix(": a group")


def _cpu_s(slot: LocalSlot) -> float:
    """CPU seconds of a slot's worker and of its children that ended."""
    process = slot._process
    if process is None:
        return 0.0
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="digits")
    parser.add_argument("--root")
    parser.add_argument("--shrink", type=float, default=1.0)
    parser.add_argument("--num-iterations", type=int)
    parser.add_argument("--set", dest="assignments", action="append", default=[])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        arguments.root = arguments.root or scratch
        main(**vars(arguments))
