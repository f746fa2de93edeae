"""A study as users run it: every shared stage once, a table with errors and marks, the same again for nothing."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from flows.ablate import ablate
from noisystudent_core.errors import ConfigurationError, RootError, SourceError
from noisystudent_core.evaluation import studies
from noisystudent_core.storage.manifest import Artifact, Manifest
from noisystudent_core.storage.verify import artifact_urls
from tests.flows.world import (
    KeptEngine,
    World,
    artifacts,
    contents,
    flow_runs,
    in_this_process,
    task_runs,
    to_four_places,
)

SEEDS = [3, 4]
VARIANTS = ["joint", "pretrain, then fine-tune", "pretrain, then fine-tune at the same rate"]
PATHS = ("labelled", "validation", "test")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, prefect_url: str, kept_engine: KeptEngine) -> Iterator[World]:
    with in_this_process(tmp_path_factory.mktemp("study"), prefect_url, kept_engine) as made:
        yield made


def study(world: World) -> list[dict[str, Any]]:
    overrides = {f"sources.{split}": world.sources[split] for split in PATHS} | {
        "robustness": {},
        "baselines": False,
        "data.images_per_part": 400,
        "selection.threshold": 0.0,
        "teacher.train.steps": 4,
        "iterations.*.train.steps": 4,
        "iterations.*.train.batch_size": 32,
        "iterations.*.pseudo_labels.unlabelled_ratio": 1,
    }
    sets = {"in-domain": world.sources["unlabelled"]}
    return ablate("joint", root=world.root, seeds=SEEDS, unlabelled=sets, shrink=0.02, overrides=overrides)


@pytest.fixture(scope="module")
def rows(world: World) -> list[dict[str, Any]]:
    """The table of the first time."""
    return study(world)


def manifests(world: World) -> list[Manifest]:
    return [Artifact.open(url).manifest for url in artifact_urls(world.root)]


def test_what_variants_share_is_done_once_a_seed(world: World, rows: list[dict[str, Any]]) -> None:
    found = manifests(world)
    assert Counter(manifest.stage for manifest in found if manifest.stage in ("prepare", "exclusions")) == {
        "prepare": 4,
        "exclusions": 1,
    }
    fits = [manifest for manifest in found if manifest.stage == "fit"]
    roles = Counter("student" if "predictions" in manifest.inputs else "labelled alone" for manifest in fits)
    # a seed's: teacher, and of the one pretrained student two fine-tuned ones; the joint and the pretrained student
    assert roles == {"labelled alone": len(SEEDS) * (1 + 2), "student": len(SEEDS) * 2}
    assert sum(manifest.stage == "select" for manifest in found) == len(SEEDS)


def test_all_runs_share_the_study_s_engine(world: World, rows: list[dict[str, Any]]) -> None:
    assert len(flow_runs()) >= len(SEEDS) * len(VARIANTS)
    assert len(world.engines) == len(flow_runs("ablate"))


def test_the_table_has_means_errors_and_changes_seed_by_seed(world: World, rows: list[dict[str, Any]]) -> None:
    assert [(row["data"], row["variant"], row["seeds"]) for row in rows] == [
        ("in-domain", variant, len(SEEDS)) for variant in VARIANTS
    ]
    top1 = {
        variant: [_run(world, f"digits, in-domain, {variant} seed {seed}").data.metrics["eval/top1"] for seed in SEEDS]
        for variant in VARIANTS
    }
    for row in rows:
        one, other = top1[row["variant"]]
        assert row["top1"] == pytest.approx(fmean((one, other)))
        assert row["top1_error"] == pytest.approx(abs(one - other) / 2)
        assert row["loss_labelled"] > 0
        if row["variant"] == "joint":
            assert row["loss_unlabelled"] > 0
            assert row["change"] is row["p_value"] is None
        else:
            changes = [mine - joint for mine, joint in zip((one, other), top1["joint"], strict=True)]
            assert row["change"] == pytest.approx(fmean(changes))
            assert row["p_value"] == studies.p_value(changes)


def _run(world: World, name: str) -> Any:
    experiment = world.tracking.get_experiment_by_name("noisy-student")
    assert experiment is not None
    (run,) = world.tracking.search_runs([experiment.experiment_id], f"attributes.run_name = '{name}'")
    return run


def test_losses_are_side_by_side_and_marks_say_what_is_no_chance(world: World, rows: list[dict[str, Any]]) -> None:
    (run,) = flow_runs("ablate")[:1]
    (page,), (table,) = artifacts(run, "study-joint-report"), artifacts(run, "study-joint")
    assert json.loads(table.data) == to_four_places(rows)
    assert page.data.startswith("# Joint training, or one after the other (appendix, study 6), digits\n")
    header, _, *lines = [line for line in page.data.splitlines() if line.startswith("|")]
    named = [word.strip() for word in header.split("|")[1:-1]]
    assert named[-2:] == ["labelled loss", "unlabelled loss"]
    for row, line in zip(rows, lines, strict=True):
        cells = dict(zip(named, (word.strip() for word in line.split("|")[1:-1]), strict=True))
        assert cells["top-1"] == f"{row['top1']:.2f} +- {row['top1_error']:.2f}"
        marked = row["p_value"] is not None and row["p_value"] < studies.SIGNIFICANT
        assert cells["vs. reference"].endswith("*") is marked
        assert (cells["unlabelled loss"] == "-") is (row["variant"] != "joint")


def test_the_same_study_again_computes_nothing(world: World, rows: list[dict[str, Any]]) -> None:
    before = contents(world.root)
    assert study(world) == rows
    assert contents(world.root) == before
    again = flow_runs()[-1]
    states = {run.name: run.state_name for run in task_runs(again)}
    done = {name for name, state in states.items() if state != "Reused"}
    assert done == {"report", *(name for name in states if name.startswith("plan: "))}


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"study": "table7"}, ConfigurationError, "study 'table7': must be one of table6, figure2, teachers"),
        ({"study": "students", "nets": ["test_resnet"]}, ConfigurationError, "compares at least 2 nets; name them"),
        ({"recipe": "digit"}, ConfigurationError, "recipe 'digit': must be one of digits"),
        ({"overrides": {"selection.treshold": 0.1}}, ConfigurationError, "no setting named 'treshold' there; there is"),
        ({"overrides": {"selection.threshold": 1.0}}, ConfigurationError, "selection.threshold=1.0: Input should be"),
        (
            {"unlabelled": {"a": "nowhere.parquet"}},
            SourceError,
            "nowhere.parquet: does not exist; give a folder",
        ),
        ({"root": "/proc/root"}, RootError, "/proc/root.*cannot be written"),
        ({"engine": "slurm"}, ConfigurationError, "engine 'slurm': must be one of local"),
        (
            {"study": "students", "nets": ["test_resnet", "test_efficientnet"]},  # the last variant alone is wrong
            ConfigurationError,
            r"student 1 \(test_efficientnet\) has .* must not be smaller; choose a larger net",
        ),
    ],
)
def test_what_cannot_be_run_ends_before_the_first_run(
    world: World, tmp_path: Path, parameters: dict[str, Any], error: type[Exception], message: str
) -> None:
    before = len(flow_runs())
    with pytest.raises(error, match=message):
        ablate.fn(**{"root": str(tmp_path / "root"), **parameters})
    assert len(flow_runs()) == before
    assert not list(tmp_path.rglob("manifest.json"))
