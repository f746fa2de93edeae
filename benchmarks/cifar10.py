"""The claim on natural images: CIFAR-10's ladder, its ablations, robustness, and unlabelled images of other classes.

    python -m benchmarks.cifar10 run DATA ROOT [--study ladder] [--seeds 0 1 2] [--shrink 0.01] [--set key=value]
    python -m benchmarks.cifar10 table ROOT --out benchmarks/results/cifar10.md

DATA is what `benchmarks.cifar10_data` writes. `run` calls the stages in the flow's order, in this process, and notes
each finished run under ROOT/studies; what is there is not done again, so that an interrupted study goes on, on another
machine too (`noisy-student export ROOT OUT` packs what that needs, the notes lie beside it). `table` writes the page of
all runs under ROOT. Choices are made on the validation column; test images are read once for each model, at the last
checkpoint.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cifar10_data import SHARES
from benchmarks.in_order import InOrder
from benchmarks.measuring import circumstances
from noisystudent_core.config import NoisyStudentConfig, parse_assignments
from noisystudent_core.evaluation import report
from noisystudent_core.recipes import configure
from noisystudent_core.storage.digests import digest_of
from noisystudent_core.storage.manifest import Artifact

_PSEUDO = "iterations.*.pseudo_labels."
_STUDENT = "iterations.*."
LOSSES = {"loss_labelled": "train/loss_labelled", "loss_unlabelled": "train/loss_unlabelled"}
FULL = "all of it"


@dataclass(frozen=True)
class Study:
    """Variants of a recipe: what each is called, and its settings."""

    title: str
    recipe: str
    data: str  # folder of its images below DATA
    variants: Mapping[str, Mapping[str, Any]]
    num_iterations: int | None = None  # None: the recipe's


ABLATIONS: dict[str, dict[str, Any]] = {  # each leaves one thing out, of the teacher's noise nothing
    FULL: {},
    "without RandAugment": {f"{_STUDENT}noise.num_ops": 0},
    "without dropout": {f"{_STUDENT}model.dropout": 0.0},
    "without stochastic depth": {f"{_STUDENT}model.stochastic_depth": 0.0},
    "without any noise": {
        f"{_STUDENT}noise.num_ops": 0,
        f"{_STUDENT}noise.crop": "none",
        f"{_STUDENT}noise.flip": False,
        f"{_STUDENT}model.dropout": 0.0,
        f"{_STUDENT}model.stochastic_depth": 0.0,
    },
    "noised teacher": {"noised_teacher": True},
    "soft labels": {f"{_PSEUDO}labels": "soft"},
    "without filtering": {"selection.threshold": 0.0},
}
NO_FILTER = {"selection.threshold": 0.0}
MISMATCHED = {
    f"{round(100 * share)}% other, {words}": {"sources.unlabelled": f"unlabelled-{round(100 * share):03d}", **settings}
    for share in SHARES
    for words, settings in (("filtered", {}), ("not filtered", NO_FILTER))
}
STUDIES = {
    "ladder": Study("ResNet-20 teaches 26, 32, 38 (5,000 labels)", "cifar10", "labels-500", {FULL: {}}),
    "step": Study("The ladder's first step (5,000 labels)", "cifar10", "labels-500", {FULL: {}}, num_iterations=1),
    "ablations": Study("What each kind of noise is worth", "cifar10", "labels-500", ABLATIONS, num_iterations=1),
    "wrn": Study("WRN-28-2, rounds from scratch (4,000 labels)", "cifar10_wrn", "labels-400", {FULL: {}}),
    "wrn_step": Study("WRN-28-2, one round (4,000 labels)", "cifar10_wrn", "labels-400", {FULL: {}}, num_iterations=1),
    "mismatched": Study(
        "Unlabelled images of other classes (six animals, 2,400 labels)", "cifar10_mismatched", "mismatched", MISMATCHED
    ),
}


def run(data: str, root: str, study: str, seeds: Sequence[int], shrink: float, overrides: Mapping[str, Any]) -> None:
    """All runs of a study that are not noted yet, seed by seed."""
    for variant in STUDIES[study].variants:
        for seed in seeds:
            config = configuration(data, study, variant, seed, shrink, overrides)
            note = Path(root) / "studies" / f"{_digest(study, variant, config)}.json"
            if note.exists():
                continue
            print(f"{study}, {variant}, seed {seed}", flush=True)
            started = time.monotonic()
            models, _ = InOrder(config, root).algorithm_1()
            rows = report.iterations(models)
            found = {
                "study": study,
                "variant": variant,
                "seed": seed,
                "shrink": shrink,
                "overrides": dict(overrides),
                "config": _digest(study, variant, config.model_copy(update={"seed": 0})),
                "seconds": round(time.monotonic() - started),
                "circumstances": circumstances("torch", "torchvision", "timm"),
                "rows": [row | _losses(model) for row, model in zip(rows, models, strict=True)],
            }
            note.parent.mkdir(parents=True, exist_ok=True)
            partial = note.with_suffix(".part")
            partial.write_text(json.dumps(found, indent=1) + "\n")
            partial.rename(note)
            print(report.table(rows), flush=True)


def configuration(
    data: str, study: str, variant: str, seed: int, shrink: float, overrides: Mapping[str, Any]
) -> NoisyStudentConfig:
    """The complete settings of one run."""
    of, settings = STUDIES[study], dict(STUDIES[study].variants[variant])
    unlabelled = settings.pop("sources.unlabelled", "unlabelled")
    names = {"labelled": "labelled", "unlabelled": unlabelled, "validation": "validation", "test": "test"}
    return configure(
        of.recipe,
        sources={split: str(Path(data) / of.data / f"{name}.parquet") for split, name in names.items()},
        seed=seed,
        shrink=shrink,
        num_iterations=of.num_iterations,
        overrides={**overrides, **settings},
    )


def _digest(study: str, variant: str, config: NoisyStudentConfig) -> str:
    """Of a run's settings, wherever its images lie."""
    return digest_of([study, variant, config.model_dump(mode="json", exclude={"sources"})])


def _losses(model: Mapping[str, str]) -> dict[str, float]:
    final = Artifact.open(model["checkpoint"]).manifest.facts.get("final", {})
    return {name: final[key] for name, key in LOSSES.items() if key in final}


def table(root: str, out: str) -> None:
    """Write the page of every run noted under a root."""
    notes = [json.loads(file.read_text()) for file in sorted((Path(root) / "studies").glob("*.json"))]
    if not notes:
        raise SystemExit(f"{root}: no finished run under it; `python -m benchmarks.cifar10 run DATA {root}` makes them")
    Path(out).write_text("\n".join(_page(notes)) + "\n")


def _page(notes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "# CIFAR-10"
    yield "\nIn percent, means over seeds +- one standard error; at the last checkpoint, test images read once a model."
    for name, study in STUDIES.items():
        of_study = [note for note in notes if note["study"] == name]
        for shrink in sorted({note["shrink"] for note in of_study}, reverse=True):
            yield from _section(name, study, [note for note in of_study if note["shrink"] == shrink])


def _section(name: str, study: Study, notes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    first = notes[0]
    changed = "".join(f" --set {key}={value}" for key, value in first["overrides"].items())
    yield f"\n## {study.title}\n"
    seeds = sorted({note["seed"] for note in notes})
    words = f"--study {name} --seeds {' '.join(map(str, seeds))} --shrink {first['shrink']:g}{changed}"
    yield f"`python -m benchmarks.cifar10 run DATA ROOT {words}`; {first['circumstances']}\n"
    heads = ["variant", "iteration", "model", "seeds", *(heading for _, heading in COLUMNS), "configuration"]
    yield f"| {' | '.join(heads)} |"
    yield f"| {' | '.join('---' for _ in heads)} |"
    for variant in study.variants:
        runs = [note for note in notes if note["variant"] == variant]
        for group in zip(*(note["rows"] for note in runs), strict=True):
            yield _line(variant, group, runs[0]["config"][:12])
    yield f"\nSeconds of a run: {', '.join(str(note['seconds']) for note in notes)}."


COLUMNS = (
    ("validation_top1", "validation"),
    ("top1", "top-1"),
    ("supervised_top1", "supervised"),
    ("change_teacher", "vs. teacher"),
    ("change_supervised", "vs. supervised"),
    ("mean_corruption_error", "corruption error"),
    ("supervised_mean_corruption_error", "supervised's"),
    ("mean_flip_probability", "flips"),
    ("supervised_mean_flip_probability", "supervised's"),
    ("fgsm_2", "FGSM 2"),
    ("supervised_fgsm_2", "supervised's"),
    ("loss_labelled", "labelled loss"),
    ("loss_unlabelled", "unlabelled loss"),
)


def _line(variant: str, group: Sequence[Mapping[str, Any]], config: str) -> str:
    cells = [variant, str(group[0]["iteration"]), group[0]["model"], str(len(group))]
    cells += [_cell([row[key] for row in group if row.get(key) is not None]) for key, _ in COLUMNS]
    return f"| {' | '.join([*cells, config])} |"


def _cell(values: Sequence[float]) -> str:
    from noisystudent_core.evaluation.studies import standard_error  # needs scipy, which `run` does without

    if not values:
        return "-"
    error = standard_error(values)
    mean = f"{sum(values) / len(values):.2f}"
    return mean if error is None else f"{mean} +- {error:.2f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    running = commands.add_parser("run")
    running.add_argument("data")
    running.add_argument("root")
    running.add_argument("--study", choices=STUDIES, default="ladder")
    running.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    running.add_argument("--shrink", type=float, default=1.0)
    running.add_argument("--set", dest="overrides", action="append", default=[], help="key=value")
    running.set_defaults(call=lambda given: run(**given | {"overrides": parse_assignments(given["overrides"])}))
    writing = commands.add_parser("table")
    writing.add_argument("root")
    writing.add_argument("--out", default="benchmarks/results/cifar10.md")
    writing.set_defaults(call=lambda given: table(**given))
    arguments = vars(parser.parse_args())
    arguments.pop("call")(arguments)
