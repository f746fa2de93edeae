"""CONTRIBUTING lists every benchmark once, and marks those that `make bench` runs."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
HELPERS = {"cifar10_data", "corruptions_reference", "one_stage"}  # started for another one, or before it
ROW = re.compile(r"^\| `(\w+)`( \*)? \| .+ \|$", re.MULTILINE)


def listed() -> list[tuple[str, str]]:
    section = (ROOT / "CONTRIBUTING.md").read_text().partition("## Benchmarks\n")[2].partition("\n## ")[0]
    return ROW.findall(section)


def test_every_benchmark_is_listed_once() -> None:
    there = {path.stem for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text()}
    assert sorted(name for name, _ in listed()) == sorted(there - HELPERS)


def test_those_of_make_bench_are_marked() -> None:
    run = re.findall(r"-m benchmarks\.(\w+)", (ROOT / "Makefile").read_text())
    assert run == [name for name, star in listed() if star]
