"""kill -9 at random moments of a run, of the flow or of a worker: the same table and bytes as an undisturbed one.

    python -m benchmarks.interruption --flows 5 --workers 4 --cancels 3 --shrink 0.2

Each trial runs the digits recipe on a root of its own. Of the flow's trials the run's process alone is killed, none of
its children may be left soon after, and the same command is run again. Of the workers' trials processes that carry out
stages are killed, five in a run, and the run has to go on by itself. Of those that are cancelled (SIGINT) the workers
must have ended within ten seconds, and the same command goes on.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from noisystudent_core.storage.manifest import Artifact
from noisystudent_core.storage.verify import artifact_urls

IMAGES_PER_PART = 100  # few, so that many parts are on their way
KILLS_PER_RUN, PAUSE_S = 5, 8.0  # of workers, and the mean pause between them
CANCEL_S = 10.0  # within which the workers of a run that is asked to stop must have ended
LONGEST_S = 60.0  # that is waited for anything to end
LIMIT_S = 5.0  # within which the children of a killed run must be gone


def main(flows: int, workers: int, cancels: int, shrink: float, seed: int) -> None:
    """Print a line per trial; exit status 1 if one of them differs."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let what is in the background ignore it
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        started = time.monotonic()
        expected = run(Path(scratch) / "undisturbed", shrink)
        duration = time.monotonic() - started
        print(f"undisturbed: {duration:.0f} s, {len(expected) - 1} artifacts; seed {seed}", flush=True)
        failed = 0
        kinds = {"flow killed": of_flow, "worker killed": of_worker, "cancelled": of_cancelled}
        trials = ["flow killed"] * flows + ["worker killed"] * workers + ["cancelled"] * cancels
        for trial, kind in enumerate(trials):
            moment = draw.uniform(0.05, 0.95 if kind != "worker killed" else 0.4) * duration
            root = Path(scratch) / f"trial-{trial}"
            good, words = kinds[kind](moment, root, shrink, expected)
            failed += not good
            print(f"{kind} at {moment:5.1f} s: {words}", flush=True)
            shutil.rmtree(root, ignore_errors=True)
    sys.exit(1 if failed else 0)


def of_flow(moment: float, root: Path, shrink: float, expected: dict[str, str]) -> tuple[bool, str]:
    """Kill the run's own process, wait for its children to end, run again."""
    _, gone_after = end_after(moment, root, shrink, signal.SIGKILL)
    same = run(root, shrink) == expected
    return same and gone_after <= LIMIT_S, f"children gone after {gone_after:.1f} s, {_compared(same)}"


def of_cancelled(moment: float, root: Path, shrink: float, expected: dict[str, str]) -> tuple[bool, str]:
    """Ask the run to stop, as Ctrl-C does, and run again."""
    workers_after, gone_after = end_after(moment, root, shrink, signal.SIGINT)
    before = set(root.glob("*/*/*.parquet"))
    same = run(root, shrink) == expected
    kept = before <= set(root.glob("*/*/*.parquet"))
    words = f"workers gone after {workers_after:.1f} s, all after {gone_after:.1f} s, {_compared(same)}"
    return same and kept and workers_after <= CANCEL_S, words


def of_worker(moment: float, root: Path, shrink: float, expected: dict[str, str]) -> tuple[bool, str]:
    """Kill workers, the first at the given moment, the next ones at random ones after it; the run goes on."""
    process = subprocess.Popen(command(root, shrink), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    draw, killed = random.Random(moment), 0
    for pause in (moment, *(draw.uniform(1, 2 * PAUSE_S) for _ in range(KILLS_PER_RUN - 1))):
        with suppress(subprocess.TimeoutExpired):
            process.wait(pause)
        while process.poll() is None and not (found := workers_of(process.pid)):
            time.sleep(0.05)
        if process.poll() is not None:
            break
        with suppress(ProcessLookupError):
            os.kill(found[0], signal.SIGKILL)
            killed += 1
    status = process.wait()
    same = status == 0 and collected(root) == expected
    return same, f"{killed} killed in all, the run ended with status {status}, {_compared(same)}"


def workers_of(pid: int) -> list[int]:
    """The processes below `pid` that carry out stages."""
    found = []
    for child, _ in descendants(pid):
        with suppress(OSError):
            if b"noisystudent_core.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


def _compared(same: bool) -> str:
    return f"table and artifacts {'the same' if same else 'DIFFER'}"


def command(root: Path, shrink: float) -> list[str]:
    """The command under test; its table goes beside the root."""
    table = ["--json", str(root.with_suffix(".json"))]
    options = ["--root", str(root), "--shrink", str(shrink), "--set", f"data.images_per_part={IMAGES_PER_PART}"]
    return [sys.executable, "-m", "flows", "run", *options, *table]


def run(root: Path, shrink: float) -> dict[str, str]:
    """Run to the end; digests of the table and of every checkpoint's weights, by path."""
    subprocess.run(command(root, shrink), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return collected(root)


def collected(root: Path) -> dict[str, str]:
    """The content digest of every artifact by its key, and the table's."""
    manifests = [Artifact.open(url).manifest for url in artifact_urls(str(root))]
    table = hashlib.sha256(root.with_suffix(".json").read_bytes()).hexdigest()
    return {manifest.key: manifest.content_digest for manifest in manifests} | {"table": table}


def end_after(moment: float, root: Path, shrink: float, number: signal.Signals) -> tuple[float, float]:
    """Start, signal the run's own process after `moment` seconds; seconds until its workers, and all, are gone."""
    process = subprocess.Popen(command(root, shrink), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(moment)
    children, numbers = descendants(process.pid), workers_of(process.pid)
    workers = [child for child in children if child[0] in numbers]
    killed, workers_after = time.monotonic(), None
    process.send_signal(number)
    while (lasting := time.monotonic() - killed) < LONGEST_S:
        if workers_after is None and not any(alive(worker) for worker in workers):
            workers_after = lasting
        if process.poll() is not None and not any(alive(child) for child in children):
            break
        time.sleep(0.05)
    return lasting if workers_after is None else workers_after, lasting


def descendants(pid: int) -> list[tuple[int, str]]:
    """Every process below `pid`: (id, start time), the start time guarding against a reused id."""
    parent_of = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent_of[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, level = [], [pid]
    while level := [child for child, parent in parent_of.items() if parent in level]:
        found += level
    return [(child, start) for child in found if (start := start_time(child))]


def start_time(pid: int) -> str | None:
    """When the process started; None if it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def alive(process: tuple[int, str]) -> bool:
    """Whether the very process still runs."""
    return start_time(process[0]) == process[1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flows", type=int, default=5)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--cancels", type=int, default=3)
    parser.add_argument("--shrink", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=os.getpid())
    main(**vars(parser.parse_args()))
