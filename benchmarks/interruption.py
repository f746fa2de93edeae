"""kill -9 at random moments, then the same command: the same table and the same bytes as an undisturbed run.

    python -m benchmarks.interruption --trials 5 --shrink 0.2

Each trial runs the digits recipe on a root of its own, kills the run's process alone at a random moment, waits until
none of its children is left, runs the same command again, and compares with the undisturbed run.
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT_S = 5.0  # within which the children of a killed run must be gone


def main(trials: int, shrink: float, seed: int) -> None:
    """Print a line per trial; exit status 1 if one of them differs."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        started = time.monotonic()
        expected = run(Path(scratch) / "undisturbed", shrink)
        duration = time.monotonic() - started
        print(f"undisturbed: {duration:.0f} s, {len(expected)} files")
        failed = 0
        for trial in range(trials):
            moment = draw.uniform(0.05, 0.95) * duration
            root = Path(scratch) / f"trial-{trial}"
            gone_after = kill_after(moment, root, shrink)
            same = run(root, shrink) == expected
            good = same and gone_after <= LIMIT_S
            failed += not good
            print(
                f"killed at {moment:5.1f} s: children gone after {gone_after:.1f} s, "
                f"table and checkpoints {'the same' if same else 'DIFFER'}",
                flush=True,
            )
    sys.exit(1 if failed else 0)


def command(root: Path, shrink: float) -> list[str]:
    """The command under test; its table goes beside the root."""
    table = ["--json", str(root.with_suffix(".json"))]
    return [sys.executable, "-m", "flows", "run", "--root", str(root), "--shrink", str(shrink), *table]


def run(root: Path, shrink: float) -> dict[str, str]:
    """Run to the end; digests of the table and of every checkpoint's weights, by path."""
    subprocess.run(command(root, shrink), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    files = {str(path.relative_to(root)): path for path in sorted(root.glob("checkpoints/*/model.safetensors"))}
    files["table"] = root.with_suffix(".json")
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def kill_after(moment: float, root: Path, shrink: float) -> float:
    """Start, kill the run's own process after `moment` seconds, and return after how long its children were gone."""
    process = subprocess.Popen(command(root, shrink), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(moment)
    children = descendants(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed = time.monotonic()
    while any(alive(child) for child in children):
        time.sleep(0.05)
        if time.monotonic() - killed > 60:
            break
    return time.monotonic() - killed


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
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--shrink", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=os.getpid())
    main(**vars(parser.parse_args()))
