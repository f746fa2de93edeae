"""Algorithm 1 on paper: the stages, their order and their amounts."""

from dataclasses import replace

import pytest

from noisystudent_core.config.shares import num_groups
from noisystudent_core.planning.counts import assumed
from noisystudent_core.planning.fits import Machine
from noisystudent_core.planning.layout import Stage
from noisystudent_core.planning.stages import lay_out
from noisystudent_core.recipes import configure
from tests.planning.by_hand import GPU, nets

DIGITS = {"labelled": 100, "unlabelled": 15_000, "validation": 1000, "test": 5000}


def laid_out(recipe: str = "digits", sizes: dict[str, int] = DIGITS, machine: Machine = GPU, **settings: object):
    sources = {split: assumed(number, 1000, 1000) for split, number in sizes.items()}
    config = configure(recipe, overrides={name.replace("__", "."): value for name, value in settings.items()})
    return {stage.name: stage for stage in lay_out(config, sources, machine, nets)}


def amounts(stage: Stage) -> list[float]:
    return [work.amount for work in stage.work]


def test_digits() -> None:
    """Numbers of the recipe: 300 steps of 100, 500 of 64 + 192; 10 classes x 1,100 images are selected."""
    stages = laid_out()
    assert amounts(stages["fit teacher"]) == [30_000, 10_000, 1000, 100]
    assert amounts(stages["fit student 1"]) == amounts(stages["fit student 2"]) == [128_000, 10_000, 1000, 100, 11_000]
    assert amounts(stages["fit baseline 1"]) == [32_000, 10_000, 1000, 100]
    assert amounts(stages["label by selector"]) == [15_000]
    assert amounts(stages["label by teacher 2"]) == [11_000]
    assert amounts(stages["evaluate student 1 on test, corruptions"]) == [200 * 75]
    assert (stages["prepare unlabelled"].parts, stages["label by selector"].groups) == (15, 4)


def test_equal_baselines_are_fitted_and_measured_once() -> None:
    names = list(laid_out())
    assert "fit baseline 2" not in names
    assert [name for name in names if "baseline" in name and "corruptions" in name] == [
        "evaluate baseline 1 on test, corruptions"
    ]
    assert "corruptions of test" in names
    assert len(names) == len(set(names))


def test_each_stage_waits_for_stages_before_it() -> None:
    names: list[str] = []
    for name, stage in laid_out("imagenet_l2", DIGITS | {"labelled": 4096}).items():
        assert set(stage.after) <= set(names)
        names.append(name)


def test_what_is_prepared_is_taken_over_for_nothing() -> None:
    sources = {split: assumed(number, 1000, 1000) for split, number in DIGITS.items()}
    sources["unlabelled"] = replace(sources["unlabelled"], is_prepared=True)
    stages = {stage.name: stage for stage in lay_out(configure("digits"), sources, GPU, nets)}
    assert amounts(stages["prepare unlabelled"]) == []
    assert amounts(stages["prepare test"]) == [5000]


def test_without_a_validation_source_the_labelled_images_are_divided() -> None:
    """A tenth of 1,000 is put aside, of what is taken in once; the table shows it where there is no test set."""
    stages = laid_out(sizes={"labelled": 1000, "unlabelled": 15_000})
    assert stages["prepare labelled"].images == 900
    assert stages["prepare validation"].images == 100
    assert amounts(stages["prepare labelled"]) == [1000]
    assert amounts(stages["prepare validation"]) == []
    assert "evaluate teacher on validation, corruptions" in stages


def test_own_selector_larger_resolution_and_materialising_are_stages() -> None:
    sizes = {"labelled": 4096, "unlabelled": 10**6, "validation": 1000, "test": 1000}
    stages = laid_out("imagenet_l2", sizes, selection__materialise=True)
    for name in ("fit selector", "fix resolution of student 3", "materialise", "fit baseline 1"):
        assert name in stages
    assert "fix resolution of teacher" not in stages
    assert stages["label by teacher 1"].after == ("fit teacher", "materialise")
    assert stages["label by teacher 2"].after[0] == "fix resolution of student 1"
    probe = stages["label by teacher 2"].work[0].probe
    assert probe.model is not None
    assert probe.model.resolution_px == 800  # as its resolution was fixed, and as it labels


def test_exclusions_by_equal_bytes_alone_need_no_hashes() -> None:
    assert amounts(laid_out()["exclusions"]) == [6000]
    stages = laid_out(data__duplicates__near_radius=None)
    assert "fingerprint unlabelled" not in stages
    assert amounts(stages["exclusions"]) == []


def test_targets_are_the_selections_own() -> None:
    """A mapping changes the target of its class; a fraction leaves fewer images to choose from."""
    assert amounts(laid_out(selection__balance={"0": 300})["label by teacher 1"]) == [10 * 1100 - 800]
    assert amounts(laid_out(selection__balance="none")["label by teacher 1"]) == [15_000]
    assert amounts(laid_out(selection__fraction=0.1)["label by teacher 1"]) == [1500]


def test_a_fit_takes_as_many_devices_as_divide_its_steps() -> None:
    """64 labelled and 192 unlabelled images a step: of 7 devices 4 have equal shares; the teacher's 100: of 7, 5."""
    stages = laid_out(machine=Machine(7, 1e12, False))
    assert (stages["fit student 1"].processes, stages["fit teacher"].processes) == (4, 5)
    assert laid_out(machine=Machine(7, 1e12, True))["fit student 1"].processes == 1


@pytest.mark.parametrize(("parts", "slots", "groups"), [(15, 1, 4), (600, 1, 10), (10**6, 1, 500), (600, 64, 256)])
def test_groups(parts: int, slots: int, groups: int) -> None:
    assert num_groups(parts, slots) == groups
