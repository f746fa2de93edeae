"""How work is shared out: a step's images over processes and micro-batches, a stage's parts over task runs."""

from collections.abc import Sequence

from noisystudent_core.errors import ConfigurationError

MAX_GROUPS = 500  # task runs a stage: the server drops events past a few thousand
GROUPS_PER_SLOT = 4
PARTS_PER_GROUP = 60  # at most, while there are fewer groups than that: what a retry plans anew


def num_groups(num_parts: int, num_slots: int) -> int:
    """Groups, at most, that the parts of a stage are shared out into on so many slots."""
    return min(MAX_GROUPS, max(GROUPS_PER_SLOT * num_slots, -(-num_parts // PARTS_PER_GROUP)))


def check_shares(images_per_step: Sequence[int], micro_batches: int, num_processes: int) -> None:
    """Raise `ConfigurationError` unless the labelled and the unlabelled images of a step divide into equal shares."""
    if _divides(num_processes * micro_batches, images_per_step):
        return
    labelled, unlabelled = images_per_step
    numbers = {"num_processes": num_processes, "micro_batches": micro_batches}
    what = " times ".join(f"{name}={number}" for name, number in numbers.items() if number > 1)
    raise ConfigurationError(
        f"{what}: must divide the {labelled} labelled and {unlabelled} unlabelled images of a step, so that each share "
        "has both at their ratio; change it, batch_size or unlabelled_ratio"
    )


def num_processes(wanted: int | None, images_per_step: Sequence[int], micro_batches: int, num_gpus: int) -> int:
    """As many processes as are `wanted`; where that is None, one a GPU, as many as have equal shares, at least one.

    Raises `ConfigurationError` for more processes than GPUs, unless there are none.
    """
    if wanted is None:
        fitting = (n for n in range(num_gpus, 1, -1) if _divides(n * micro_batches, images_per_step))
        return next(fitting, 1)
    if 0 < num_gpus < wanted:
        raise ConfigurationError(
            f"execution.num_processes={wanted}: must be at most {num_gpus}, the GPUs that this fit has; leave it out "
            "for one process a GPU"
        )
    return wanted


def _divides(number: int, images_per_step: Sequence[int]) -> bool:
    return not any(images % number for images in images_per_step)
