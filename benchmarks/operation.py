"""SIGKILL of each process that a deployment's run needs, each alone: after the remedy the same table and bytes.

    python -m benchmarks.operation --kinds worker flow child server mlflow --during 'fit teacher' 'fit student 1'

The services of compose.yaml run here by hand, on a PostgreSQL and a Redis of their own; artifacts go to disk. Each
trial is a run of the deployment noisy-student/iterate on a root of its own. Killed are the Prefect worker, the process
of the flow run, the stage's worker in it, the Prefect server or the MLflow server, `--after-s` seconds after a stage
has begun; what a supervisor starts again is started again at once. A run that ends otherwise than Completed is retried,
once. Each prints a row of a table. Needs the extra `server`, and the programs of PostgreSQL and Redis.
"""

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from benchmarks.deployed import Outcome, Site, processes_of, scratch, settle, site
from noisystudent_core.errors import NoisyStudentError

KINDS = {
    "worker": "Prefect worker",
    "flow": "process of the flow run",
    "child": "worker of a stage",
    "server": "Prefect server",
    "mlflow": "MLflow server",
}
READING_S = 10.0  # before a retry: the worker says again what the run's own supervisor said, and would undo it
COLUMNS = ["SIGKILL of", "after", "while", "then", "remedy", "lost", "table, artifacts", "`eval/top1` at", "MLflow"]
# one student, measured on validation and test images alone, and no baseline beside it
QUICK = {"num_iterations": 1, "overrides": {"robustness": {}, "baselines": False}}


def main(kinds: Sequence[str], during: Sequence[str], after_s: float, shrink: float, quick: bool, keep: bool) -> None:
    """Print a row per trial; exit status 1 if one of them differs."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let what is in the background ignore it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    failed = 0
    parameters = {"shrink": shrink, **(QUICK if quick else {})}
    with scratch(keep) as folder, site(folder, parameters) as there:
        there.forget_models()
        started = time.monotonic()
        expected, duration_s = undisturbed(there, folder / "undisturbed")
        numbers = f"{len(expected.digests)} artifacts, {len(expected.values)} values in MLflow"
        print(f"undisturbed: {duration_s:.0f} s, {numbers}\n", flush=True)
        print(row(COLUMNS), row(["---"] * len(COLUMNS)), sep="\n", flush=True)
        for number, (stage, kind) in enumerate(product(during, kinds)):
            root = folder / f"{kind}-{number}"
            try:
                good, cells = of_kind(kind, stage, after_s, there, root, expected, duration_s)
            except (TimeoutError, AssertionError, NoisyStudentError) as error:  # the other trials are worth having
                good, cells = False, [KINDS[kind], "-", stage, str(error)]
            failed += not good
            print(row(cells), flush=True)
        print(f"\n{failed} differ; {time.monotonic() - started:.0f} s in all", flush=True)
    sys.exit(1 if failed else 0)


def undisturbed(there: Site, root: Path) -> tuple[Outcome, float]:
    """A run that nothing happens to, and how long it takes."""
    run_id = there.start(root)
    started = time.monotonic()
    state = there.end(run_id)
    duration_s = time.monotonic() - started
    assert state == "COMPLETED", f"{state}; see {there.machine.folder}/worker.log with --keep"
    found = there.outcome(run_id, root)
    assert found.digests and found.iterations and found.num_models == 1 and not found.num_unfinished, found
    return found, duration_s


def of_kind(
    kind: str, stage: str, after_s: float, there: Site, root: Path, expected: Outcome, duration_s: float
) -> tuple[bool, list[str]]:
    """One trial; whether it ended as the undisturbed run, and the cells of its row."""
    there.forget_models()
    run_id = there.start(root)
    started = time.monotonic()
    begun = settle(lambda: stage in there.at_work(run_id), 3 * duration_s)
    assert begun, f"{run_id}: {stage} never began"
    time.sleep(after_s)
    moment_s, at_work = time.monotonic() - started, there.at_work(run_id)
    there.kill(kind, run_id)
    state, remedy = there.end(run_id), "nothing"
    first = state
    if state != "COMPLETED":
        time.sleep(READING_S)
        remedy = "`prefect flow-run retry`"
        there.machine.run("worker", "prefect", "flow-run", "retry", run_id)
        there.wait_until(run_id, lambda state: state not in (None, first))
        state = there.end(run_id)
    lost_s = time.monotonic() - started - duration_s
    found = there.outcome(run_id, root)
    gone = settle(lambda: not processes_of(run_id))
    same = (state, found.table, found.digests) == ("COMPLETED", expected.table, expected.digests)
    whole = found.iterations == expected.iterations and found.num_models == 1
    words = ["same" if same else f"DIFFERS ({state}{difference(found, expected)})", *in_mlflow(found, expected)]
    if not gone:
        words[0] += ", processes LEFT"
    cells = [
        KINDS[kind],
        f"{moment_s:.0f} s",
        _doing(at_work, stage),
        first.capitalize(),
        remedy,
        f"{lost_s:.0f} s",
        *words,
    ]
    return same and gone and whole, cells


def _doing(at_work: Sequence[str], stage: str) -> str:
    """The stage that was waited for, unless it has ended, and how many others."""
    if not at_work:
        return "between stages"
    first, *others = sorted(at_work, key=lambda name: name != stage)
    return first + f" and {len(others)} more" * bool(others)


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def difference(found: Outcome, expected: Outcome) -> str:
    """What is not the same, for a reader."""
    other = [key for key, digest in expected.digests.items() if found.digests.get(key) != digest]
    more = [key for key in found.digests if key not in expected.digests]
    words = [f"{len(other)} artifacts lack or differ"] * bool(other) + [f"{len(more)} more"] * bool(more)
    return "".join(f", {each}" for each in [*words, *["the table"] * (found.table != expected.table)])


def in_mlflow(found: Outcome, expected: Outcome) -> tuple[str, str]:
    """Which iterations the run shows, and what is lacking, twice there or not closed."""
    lacking = [value for value in expected.values if value not in found.values]
    twice = sum(number - expected.values.get(value, 1) > 0 for value, number in found.values.items())
    words = [f"all {len(expected.values)}" if not lacking else f"{len(lacking)} of {len(expected.values)} LACKING"]
    words += [f"{twice} twice"] * bool(twice) + [f"{found.num_unfinished} runs not ended"] * bool(found.num_unfinished)
    words += [f"{found.num_models} models"] * (found.num_models != 1)
    return " ".join(map(str, found.iterations)) or "none", ", ".join(words)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--during", nargs="+", default=["fit teacher", "label by selector: a group", "fit student 1"])
    parser.add_argument("--after-s", type=float, default=1.0, help="that a stage is given before the kill")
    parser.add_argument("--shrink", type=float, default=0.02)
    parser.add_argument("--quick", action="store_true", help="one student, no robustness, no baseline")
    parser.add_argument("--keep", action="store_true", help="leave roots and logs where they are")
    main(**vars(parser.parse_args()))
