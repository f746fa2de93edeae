"""What a net's classes are called in a benchmark, whose folders are named by them."""

from collections.abc import Callable, Sequence
from typing import Literal

from noisystudent_core.errors import ConfigurationError, LabelError
from noisystudent_core.evaluation.benchmarks import NUM_CLASSES, imagenet_class_names
from noisystudent_core.storage.trees import some

SORTED = "sorted"  # instead of names: the folders' own, in their order


def class_names(
    num_classes: int,
    given: Sequence[str] | Literal["sorted"] | None,
    known: Sequence[str] | None,
    folders: Callable[[], Sequence[str]],
) -> list[str]:
    """The folders' names in the order of a net's classes.

    `given` goes before those that the checkpoint has, and these before ImageNet's, where there are a thousand classes.
    A net without names takes folders that are called 0, 1, ... (or 00, 01, ...) as its classes by number. `folders`
    lists the benchmark's. Raises `ConfigurationError` where nothing says which class a folder is, `LabelError` for
    another number of names than of classes.
    """
    if given == SORTED:
        return _of_all(sorted(folders()), num_classes, "folders")
    if given is not None:
        return _of_all(list(given), num_classes, "class_names")
    if known:
        return list(known)
    if num_classes == NUM_CLASSES:
        return list(imagenet_class_names())
    found = sorted(folders())
    if not all(name.isdecimal() for name in found):
        raise ConfigurationError(
            f"the checkpoint's {num_classes} classes have no names, and the folders no numbers from 0 to "
            f"{num_classes - 1} ({some(found)}): which is which? Set class_names to the folders' names in the order of "
            f'the classes, as ["{found[0]}", ...], or to "{SORTED}" where that is the order of the names'
        )
    numbered = {int(name): name for name in found}
    return [numbered.get(number, str(number)) for number in range(num_classes)]


def _of_all(names: list[str], num_classes: int, what: str) -> list[str]:
    if len(names) != num_classes:
        raise LabelError(
            f"{len(names)} {what} ({some(names)}): must be as many as the net's {num_classes} classes; give one for "
            "each, in their order"
        )
    return names
