"""What a fit has to do and to hold, from the settings that it is carried out by."""

from collections.abc import Callable
from dataclasses import dataclass

from noisystudent_core.config.settings import FitConfig, ModelConfig
from noisystudent_core.noise.input_noise import source_geometry
from noisystudent_core.planning import probes
from noisystudent_core.planning.counts import Images
from noisystudent_core.planning.nets import NetCost
from noisystudent_core.planning.probes import Probe
from noisystudent_core.training.inputs import RESIDENT_SHARE

VALIDATION_BATCH = 256
OPTIMIZER_NUMBERS = {"rmsprop": 2, "sgd": 1, "adamw": 2}  # kept for each weight
WEIGHT_NUMBERS = 3  # weight, gradient, average

Nets = Callable[[ModelConfig, int], NetCost]


@dataclass(frozen=True)
class Work:
    """An amount of what a probe measures, how it comes about, and whether several devices share it."""

    probe: Probe
    amount: float
    reason: str
    is_shared: bool = False


@dataclass(frozen=True)
class Machine:
    """What stages run on: devices, and the memory of each."""

    num_devices: int
    memory_bytes: float
    is_cpu: bool


def fit_work(
    config: FitConfig, labelled: Images, validation: Images, selected: Images | None, machine: Machine
) -> tuple[tuple[Work, ...], bool]:
    """Steps, validations and decoding of a fit, the steps first, and whether it decodes while it learns."""
    train, (num_labelled, num_unlabelled) = config.train, config.images_per_step
    num_steps, num_images = train.num_steps(labelled.number), num_labelled + num_unlabelled
    if train.epochs is None:
        reason = f"{num_steps:,} steps x {num_images:,} images"
    else:
        passes = f"{labelled.number:,} labelled images x {train.epochs:g} epochs"
        reason = f"{passes} = {num_steps:,} steps of {train.batch_size:,}"
        reason += f", x {num_images / num_labelled:g}" if num_unlabelled else ""
    steps = Work(probes.step(config), num_steps * num_images, reason, is_shared=True)
    number = train.num_validations * validation.number
    validated = Work(
        probes.evaluate(config.model, config.num_classes, VALIDATION_BATCH),
        number,
        f"{train.num_validations} validations x {validation.number:,} images",
    )
    decoded = [decoding(validation, config.model)]
    learnt = [(num_labelled, labelled, config.noise)]
    if selected is not None and config.pseudo_labels is not None:
        learnt.append((num_unlabelled, selected, config.pseudo_labels.noise or config.noise))
    overlaps = False
    for in_a_step, images, noise in learnt:
        size, crop = source_geometry(noise, config.model.resolution_px, config.model.crop_fraction)
        probe = probes.of_images("decode", probes.rounded(images.bytes_each), size, crop)
        if is_resident(config, images.number, size, machine):
            decoded.append(Work(probe, images.number, f"{images.number:,} images decoded once"))
        else:
            overlaps = True
            streamed = num_steps * in_a_step
            decoded.append(Work(probe, streamed, f"{num_steps:,} steps x {in_a_step:,} images streamed", True))
    return (steps, validated, *decoded), overlaps


def is_resident(config: FitConfig, num_images: int, size: int, machine: Machine) -> bool:
    """Whether the images of a fit stay decoded in its device's memory, as `training.inputs` decides."""
    if config.execution.data != "auto":
        return config.execution.data == "resident"
    return num_images * 3 * size**2 <= RESIDENT_SHARE * machine.memory_bytes


def decoding(images: Images, model: ModelConfig) -> Work:
    """Images decoded once as a net is measured on them."""
    probe = probes.of_images("decode", probes.rounded(images.bytes_each), model.resolution_px, model.crop_fraction)
    return Work(probe, images.number, f"{images.number:,} images decoded")


def fit_memory(config: FitConfig, nets: Nets, machine: Machine) -> float:
    """Bytes that weights, their gradients and averages, the optimiser and the layers' outputs take on a device."""
    kept, outputs = _memory(config, nets, machine)
    return kept + outputs


def memory_note(config: FitConfig, nets: Nets, machine: Machine, setting: str) -> str:
    """What to set where a fit does not fit into a device's memory; nothing where it does."""
    kept, outputs = _memory(config, nets, machine)
    if kept + outputs <= machine.memory_bytes:
        return ""
    needed = f"about {(kept + outputs) / 1e9:,.0f} GB, a device has {machine.memory_bytes / 1e9:,.0f}"
    room, micro_batches = machine.memory_bytes - kept, config.train.micro_batches
    while micro_batches <= config.train.batch_size and room > 0:
        if outputs * config.train.micro_batches <= room * micro_batches:
            return f"{needed}: set {setting}.train.micro_batches={micro_batches}"
        micro_batches *= 2
    return f"{needed}, and micro-batches alone do not help: it needs larger devices, or more of them"


def _memory(config: FitConfig, nets: Nets, machine: Machine) -> tuple[float, float]:
    """Bytes of what is kept for each weight, and of the outputs of a micro-batch."""
    cost, train = nets(config.model, config.num_classes), config.train
    numbers = WEIGHT_NUMBERS + OPTIMIZER_NUMBERS[train.optimizer.name]
    processes = 1 if machine.is_cpu else config.num_processes(machine.num_devices)
    at_once = sum(config.images_per_step) / train.micro_batches / processes
    in_bf16 = train.precision == "bf16" or (train.precision == "auto" and not machine.is_cpu)
    return 4.0 * cost.num_parameters * numbers, at_once * cost.activations * (2 if in_bf16 else 4)
