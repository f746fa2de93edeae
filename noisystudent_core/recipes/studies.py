"""The paper's studies as grids of short runs: each variant is a recipe with a few settings changed.

Sources: table 6, figure 2, and the appendix's eight studies. All are rounds of one student, so that what differs
between two variants is what the study is about.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from noisystudent_core.config import NoisyStudentConfig
from noisystudent_core.errors import ConfigurationError

Variants = Mapping[str, Mapping[str, Any]]  # what a variant is called -> settings by dotted path

_STUDENT = "iterations.*."
_PSEUDO = "iterations.*.pseudo_labels."
# what is left of the augmentation for images without noise: each as it is (table 6)
_NO_AUGMENTATION = {"num_ops": 0, "crop": "none", "flip": False}


@dataclass(frozen=True)
class Study:
    """Variants of a recipe; `reference` is the one that the others are compared with."""

    title: str
    source: str  # in the paper
    reference: str
    variants: Callable[[NoisyStudentConfig, Sequence[str]], Variants]  # of a recipe and of nets, the smallest first
    num_nets: int = 0  # that it needs at least


def study(name: str) -> Study:
    """A study by name; raises `ConfigurationError` for an unknown one."""
    if name not in STUDIES:
        raise ConfigurationError(f"study {name!r}: must be one of {', '.join(STUDIES)}")
    return STUDIES[name]


def variants_of(name: str, recipe: NoisyStudentConfig, nets: Sequence[str]) -> Variants:
    """The variants of a study of a recipe, by name.

    Raises `ConfigurationError` for an unknown study, and for one of several nets that is given too few of them.
    """
    found = study(name)
    if len(nets) < found.num_nets:
        raise ConfigurationError(
            f"nets={list(nets)}: study {name!r} compares at least {found.num_nets} nets; name them, the smallest first"
        )
    return found.variants(recipe, nets)


def _table6(recipe: NoisyStudentConfig, nets: Sequence[str]) -> Variants:
    quiet = recipe.iterations[0].noise.model_dump() | _NO_AUGMENTATION
    no_augmentation = {f"{_PSEUDO}noise": quiet}
    return {
        "noisy student": {},
        "student without augmentation": no_augmentation,
        "student without any noise": no_augmentation | {f"{_PSEUDO}model_noise": False},
        "noised teacher": {"noised_teacher": True},
    }


def _figure2(recipe: NoisyStudentConfig, nets: Sequence[str]) -> Variants:
    return {net: {"teacher.model.name": net, f"{_STUDENT}model.name": net} for net in nets}


def _teachers(recipe: NoisyStudentConfig, nets: Sequence[str]) -> Variants:
    student = {f"{_STUDENT}model.name": nets[0], "allow_smaller_student": True}
    return {f"teacher {net}": {"teacher.model.name": net, **student} for net in nets}


def _amounts(recipe: NoisyStudentConfig, nets: Sequence[str]) -> Variants:
    shares = {f"1/{2**halvings}": 2.0**-halvings for halvings in range(1, 8)}
    return {
        "all": {},
        **{f"{name} at random": {"selection.fraction": share} for name, share in shares.items()},
        **{
            f"{name} most confident": {"selection.num_images_per_class": _at_least_one(recipe, share)}
            for name, share in shares.items()
        },
    }


def _at_least_one(recipe: NoisyStudentConfig, share: float) -> int:
    return max(1, round(recipe.selection.num_images_per_class * share))


def _labels(recipe: NoisyStudentConfig, nets: Sequence[str]) -> Variants:
    edges = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    bands = {f"{low:g} to {high:g}": (low, high) for low, high in pairwise(edges)}
    return {
        f"{labels}, {band}": {
            "selection.threshold": low,
            "selection.max_confidence": high,
            f"{_PSEUDO}labels": labels,
        }
        for band, (low, high) in bands.items()
        for labels in ("soft", "hard")
    }


def _students(recipe: NoisyStudentConfig, nets: Sequence[str]) -> Variants:
    return {f"student {net}": {"teacher.model.name": nets[0], f"{_STUDENT}model.name": net} for net in nets}


def _balancing(recipe: NoisyStudentConfig, nets: Sequence[str]) -> Variants:
    return {
        f"{net}, {words}": {
            "teacher.model.name": net,
            f"{_STUDENT}model.name": net,
            "selection.balance": balance,
        }
        for net in nets
        for words, balance in (("balanced", "uniform"), ("not balanced", "none"))
    }


def _joint(recipe: NoisyStudentConfig, nets: Sequence[str]) -> Variants:
    own = recipe.iterations[0].train.model_dump()
    gentle = own["optimizer"] | {"learning_rate": own["optimizer"]["learning_rate"] / 10}
    return {
        "joint": {},
        "pretrain, then fine-tune": {f"{_STUDENT}finetune": own | {"optimizer": gentle}},
        "pretrain, then fine-tune at the same rate": {f"{_STUDENT}finetune": own},
    }


def _ratios(recipe: NoisyStudentConfig, nets: Sequence[str]) -> Variants:
    return {f"ratio {ratio}": {f"{_PSEUDO}unlabelled_ratio": ratio} for ratio in (1, 3, 7, 14)}


def _starts(recipe: NoisyStudentConfig, nets: Sequence[str]) -> Variants:
    same = {f"{_STUDENT}model": recipe.teacher.model.model_dump()}
    shorter = {
        f"warm start, {words} as long": {f"{_STUDENT}warm_start": True, **_length(recipe, share)}
        for words, share in (("a fifth", 0.2), ("half", 0.5))
    }
    return {
        "from scratch": same,
        "warm start": same | {f"{_STUDENT}warm_start": True},
        **{name: same | changed for name, changed in shorter.items()},
    }


def _length(recipe: NoisyStudentConfig, share: float) -> dict[str, Any]:
    train = recipe.iterations[0].train
    if train.steps is not None:
        return {f"{_STUDENT}train.steps": max(1, round(train.steps * share))}
    return {f"{_STUDENT}train.epochs": (train.epochs or 0) * share}


STUDIES: dict[str, Study] = {
    "table6": Study("Which noise helps", "table 6", "noisy student", _table6),
    "figure2": Study("One round for each size of net", "figure 2", "", _figure2, num_nets=1),
    "teachers": Study("A better teacher", "appendix, study 1", "", _teachers, num_nets=2),
    "amounts": Study("How many unlabelled images", "appendix, study 2", "all", _amounts),
    "labels": Study("Soft or hard labels, by confidence", "appendix, study 3", "", _labels),
    "students": Study("A larger student", "appendix, study 4", "", _students, num_nets=2),
    "balancing": Study("Balancing the classes", "appendix, study 5", "", _balancing, num_nets=1),
    "joint": Study("Joint training, or one after the other", "appendix, study 6", "joint", _joint),
    "ratios": Study("Unlabelled images per labelled one", "appendix, study 7", "ratio 1", _ratios),
    "starts": Study("From scratch, or from the teacher", "appendix, study 8", "from scratch", _starts),
}
