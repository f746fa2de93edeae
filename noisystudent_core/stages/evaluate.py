"""A checkpoint's metrics: its accuracy, its robustness, or what a released benchmark asks."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from torch import Tensor, nn

from noisystudent_core.config.evaluation import Adversarial, EvaluateConfig, Perturbations
from noisystudent_core.data.labels import num_classes_of
from noisystudent_core.data.parts import labelled_batches
from noisystudent_core.data.schemas import EVALUATIONS, to_bytes
from noisystudent_core.errors import ConfigurationError, LabelError
from noisystudent_core.evaluation import adversarial, benchmarks, classification, corruptions, perturbations, released
from noisystudent_core.evaluation.class_names import class_names
from noisystudent_core.evaluation.folders import image_folder
from noisystudent_core.evaluation.metrics import Array, Results, split
from noisystudent_core.events import Events
from noisystudent_core.models import checkpoints
from noisystudent_core.models.architectures import Normalised, device
from noisystudent_core.stages.corrupt import stored_images, stored_sequences
from noisystudent_core.storage.manifest import Artifact, Inputs, Part, publish_part
from noisystudent_core.storage.stage import Place, Written, stage
from noisystudent_core.storage.trees import some

MOST_IN_FACTS = 10_000  # numbers of an array that the manifest repeats


@stage
def evaluate(config: EvaluateConfig, inputs: Inputs, place: Place, events: Events) -> Written:
    """Measure a model: inputs {"checkpoint"} and {"images"}, {"corrupted"} or {"folder"}, a released benchmark's.

    The artifact has a row per metric; `facts` have the same numbers, and small arrays. Raises, before an image is read,
    `LabelError` for unlabelled images and for a checkpoint of other classes, `ConfigurationError` for images of another
    size, and what `evaluation.class_names` and the readers of benchmarks' folders do.
    """
    net, description = checkpoints.load(inputs["checkpoint"], _num_classes(config, inputs))
    model = _Model(Normalised(net).to(device()).eval(), description)
    num_images, results = _measured(config, inputs, model, events)
    numbers, arrays = split(results)
    digest = Artifact.open(inputs["checkpoint"]).manifest.content_digest
    part = _write(place, {"model": digest, "benchmark": config.benchmark, "num_images": num_images}, numbers, arrays)
    small = {name: array for name, array in arrays.items() if array.values.size <= MOST_IN_FACTS}
    facts: dict[str, Any] = {"metrics": numbers, "num_images": num_images}
    facts["arrays"] = {name: {"axes": list(a.axes), "values": a.values.tolist()} for name, a in small.items()}
    return Written((part,), facts=facts)


class _Model:
    """A net, the size and crop of its images, and what its classes are called."""

    def __init__(self, net: nn.Module, description: dict[str, Any]) -> None:
        self.net = net
        self.size, self.crop_fraction = checkpoints.input_geometry(description)
        self.num_classes: int = description["num_classes"]
        self.names: list[str] | None = description.get("label_names")


class _Told:
    """Items of a measurement as they are; how many images are done is told after each."""

    def __init__(self, events: Events, total: int, unit: str = "images") -> None:
        self._events, self._done, self._total, self._unit = events, 0, total, unit

    def batches(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in batches:
            yield images, labels
            self._say(len(labels))

    def sequences(self, sequences: Iterable[tuple[Tensor, int]]) -> Iterator[tuple[Tensor, int]]:
        for frames, label in sequences:
            yield frames, label
            self._say(1)

    def _say(self, number: int) -> None:
        self._done += number
        self._events("progress", done=self._done, total=self._total, unit=self._unit)


def _num_classes(config: EvaluateConfig, inputs: Inputs) -> int | None:
    """How many classes the images have; None for those of a folder, whose classes have names."""
    if config.released is not None:
        return None
    if "corrupted" in inputs:
        return Artifact.open(inputs["corrupted"]).manifest.facts["num_classes"]
    num_classes = num_classes_of(Artifact.open(inputs["images"]).manifest)
    if num_classes is None:
        raise LabelError(f"{inputs['images']}: its images have no labels; prepare their source with num_classes")
    return num_classes


def _measured(config: EvaluateConfig, inputs: Inputs, model: _Model, events: Events) -> tuple[int, Results]:
    """How many images are measured, or sequences, and the results."""
    if config.released is not None:
        return _released(config, inputs["folder"], model, events)
    if "corrupted" in inputs:
        return _on_corrupted(config, inputs["corrupted"], model, events)
    _check_names(inputs["images"], model, events)
    num_images = sum(Artifact.open(inputs["images"]).manifest.facts["class_counts"].values())
    how = (inputs["images"], model.size, model.crop_fraction, config.batch_size)
    if not isinstance(config.suite, Adversarial):
        told = _Told(events, num_images)
        return num_images, classification.run(model.net, told.batches(labelled_batches(*how)))
    num_images = min(num_images, config.suite.num_images or num_images)
    chosen = labelled_batches(*how, config.suite.num_images, config.suite.seed)
    return num_images, adversarial.run(model.net, _Told(events, num_images).batches(chosen), config.suite)


def _on_corrupted(config: EvaluateConfig, url: str, model: _Model, events: Events) -> tuple[int, Results]:
    _check_size(url, model)
    facts = Artifact.open(url).manifest.facts
    num_images, total = facts["num_images"], facts["num_images"] * len(facts["kinds"])
    if isinstance(config.suite, Perturbations):
        told = _Told(events, total, "sequences")
        moving = ((name, told.sequences(found)) for name, found in stored_sequences(url))
        return num_images, perturbations.run(model.net, moving)
    told, stored = _Told(events, total), stored_images(url, config.batch_size)
    return num_images, corruptions.run(model.net, ((name, level, told.batches(found)) for name, level, found in stored))


def _released(config: EvaluateConfig, url: str, model: _Model, events: Events) -> tuple[int, Results]:
    """A released benchmark's, all of it listed before an image is read."""
    if config.released in ("imagenet_a", "real"):
        benchmarks.check_imagenet(config.released, model.num_classes)
    names = class_names(
        model.num_classes,
        config.class_names,
        model.names,
        lambda: released.class_folders(url, str(config.released)),
    )
    match config.released:
        case "imagenet_c":
            return _imagenet_c(config, url, names, model, events)
        case "imagenet_p":
            return _imagenet_p(url, names, model, events)
        case "imagenet_a":
            images, run = benchmarks.imagenet_a_folder(url), benchmarks.imagenet_a
        case "real":
            images, run = benchmarks.with_real_labels(image_folder(url, names)), benchmarks.real
        case _:
            images, run = image_folder(url, names), classification.run
    batches = images.batches(model.size, model.crop_fraction, config.batch_size)
    return len(images), run(model.net, _Told(events, len(images)).batches(batches))


def _imagenet_c(
    config: EvaluateConfig, url: str, names: Sequence[str], model: _Model, events: Events
) -> tuple[int, Results]:
    """Its images are cut already, and resized whole; of other classes than ImageNet's, AlexNet is no baseline."""
    sets = released.corruption_folders(url, names)
    num_images = len(sets[0][2])
    told = _Told(events, num_images * len(sets))
    batches = (
        (name, level, told.batches(found.batches(model.size, 1.0, config.batch_size))) for name, level, found in sets
    )
    published = model.num_classes == benchmarks.NUM_CLASSES
    return num_images, corruptions.run(model.net, batches, corruptions.ALEXNET if published else None)


def _imagenet_p(url: str, names: Sequence[str], model: _Model, events: Events) -> tuple[int, Results]:
    """Frames as the images of `_imagenet_c`."""
    sets = released.perturbation_folders(url, names)
    told = _Told(events, sum(len(found) for _, found in sets), "sequences")
    sequences = ((name, told.sequences(found.sequences(model.size))) for name, found in sets)
    published = model.num_classes == benchmarks.NUM_CLASSES
    return len(sets[0][1]), perturbations.run(model.net, sequences, perturbations.ALEXNET if published else None)


def _check_names(url: str, model: _Model, events: Events) -> None:
    """Raise `LabelError` where a class of the images is another one of the net; say so where nobody can tell."""
    names = Artifact.open(url).manifest.facts.get("class_names")
    if names and model.names and list(names) != list(model.names):
        where = next(place for place, (one, other) in enumerate(zip(names, model.names, strict=True)) if one != other)
        raise LabelError(
            f"{url}: class {where} is {names[where]!r}, of the checkpoint {model.names[where]!r}: must be the same in "
            "the same order; prepare the images with the checkpoint's class_names"
        )
    if names and not model.names:
        text = f"the checkpoint's classes have no names; taken to be, in this order: {some(names, 10)}"
        events("message", text=text)


def _check_size(url: str, model: _Model) -> None:
    found = Artifact.open(url).manifest.facts["resolution_px"]
    if found != model.size:
        raise ConfigurationError(
            f"{url}: images of {found} px, the checkpoint takes {model.size}; corrupt the images at that size"
        )


def _write(place: Place, common: Mapping[str, Any], numbers: dict[str, float], arrays: dict[str, Array]) -> Part:
    rows = [{**common, "metric": name, "value": value} for name, value in [*numbers.items(), *_flat(arrays)]]
    data = to_bytes(pa.Table.from_pylist(rows, schema=EVALUATIONS), EVALUATIONS)
    return publish_part(place.folder, "part-00000.parquet", data, len(rows))


def _flat(arrays: dict[str, Array]) -> Iterator[tuple[str, float]]:
    for name, array in arrays.items():
        yield from array.rows(name)
