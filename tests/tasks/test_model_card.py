"""The model card says what a student was trained on, by digest, its table, its limits and its licence."""

import os
from pathlib import Path
from typing import Any

import pytest

from noisystudent_core.config import NoisyStudentConfig
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.recipes import configure
from noisystudent_core.stages import prepare
from noisystudent_core.storage.manifest import Manifest
from tasks.model_card import DataSet, data_sets, model_card
from tests.conftest import NUM_CLASSES

ROW: dict[str, Any] = {
    "iteration": 1,
    "model": "test_resnet",
    "parameters": 12345,
    "unlabelled_ratio": 3.0,
    "validation_top1": 91.25,
    "top1": 90.5,
    "top5": 99.0,
    "supervised_top1": 88.0,
    "change_teacher": 1.5,
    "change_supervised": 2.5,
}


def config(sources: dict[str, str], **overrides: Any) -> NoisyStudentConfig:
    return configure("digits", sources=sources, overrides={"data.num_classes": NUM_CLASSES} | overrides)


def student(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "kind": "checkpoints",
        "stage": "fit",
        "stage_version": 1,
        "key": "k" * 32,
        "content_digest": "c" * 32,
        "num_rows": 0,
        "parts": (),
        "drops": {},
        "facts": {},
        "config": {"model": {"resolution_px": 28}},
        "inputs": {"selection": "s" * 32},
        "versions": {"torch": "2.15"},
    }
    return Manifest(**fields | changes)


def prepared(config: NoisyStudentConfig, root: str) -> dict[str, DataSet]:
    for split in ("labelled", "unlabelled", "validation", "test"):
        if (source := config.source(split)) is not None:
            prepare(config.prepare(split), {"source": source}, root)
    return data_sets(config, root)


def test_data_sets_are_named_with_digest_and_number_of_images(sources: dict[str, str], root: str) -> None:
    run = config(sources, **{"publication.license": "CC-BY-4.0"})
    data = prepared(run, root)
    card = model_card(run, [ROW], student(), data)
    for split, number in (("labelled", 12), ("unlabelled", 30), ("validation", 9), ("test", 9)):
        assert f"| {split} | {number} | `{data[split].manifest.content_digest}` | {sources[split]} |" in card
    for words in ("Licence: CC-BY-4.0", f"selection `{'s' * 32}`", "recipe `digits`, seed 0", "at 28 px", "90.5"):
        assert words in card
    assert "No test set" not in card


def test_what_is_not_known_is_said(sources: dict[str, str], root: str) -> None:
    run = config({name: url for name, url in sources.items() if name != "test"}, **{"sources.test": None})
    data = prepared(run, root)
    card = model_card(run, [ROW], student(), data)
    assert "Licence: not stated" in card
    assert "No test set was kept apart" in card
    assert "| test |" not in card


def test_a_source_that_changed_since_is_left_out(sources: dict[str, str], root: str) -> None:
    run = config(sources)
    prepared(run, root)
    os.utime(Path(sources["test"]), (0, 0))
    assert set(data_sets(run, root)) == {"labelled", "unlabelled", "validation"}


def test_champion_is_chosen_by_a_validation_metric_alone(sources: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"champion_metric='eval/top1'"):
        config(sources, **{"publication.champion_metric": "eval/top1"})
