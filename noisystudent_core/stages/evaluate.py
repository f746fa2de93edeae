"""A checkpoint's metrics: its accuracy, its robustness, or what a released benchmark asks."""

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
from torch import nn

from noisystudent_core.config.evaluation import Adversarial, EvaluateConfig, Perturbations
from noisystudent_core.data.parts import labelled_batches
from noisystudent_core.data.schemas import EVALUATIONS, to_bytes
from noisystudent_core.errors import ConfigurationError, LabelError
from noisystudent_core.evaluation import adversarial, benchmarks, classification, corruptions, perturbations, released
from noisystudent_core.evaluation.folders import image_folder, sequence_folder
from noisystudent_core.evaluation.metrics import Array, Results, split
from noisystudent_core.events import Events
from noisystudent_core.models import checkpoints
from noisystudent_core.models.architectures import Normalised, device
from noisystudent_core.stages.corrupt import stored_images, stored_sequences
from noisystudent_core.storage.manifest import Artifact, Inputs, Part, publish_part
from noisystudent_core.storage.stage import Place, Written, stage

MOST_IN_FACTS = 10_000  # numbers of an array that the manifest repeats


@stage
def evaluate(config: EvaluateConfig, inputs: Inputs, place: Place, events: Events) -> Written:
    """Measure a model: inputs {"checkpoint"} and {"images"}, {"corrupted"} or {"folder"}, a released benchmark's.

    The artifact has a row per metric; `facts` have the same numbers, and small arrays. Raises `LabelError` for
    unlabelled images and for a checkpoint of other classes, `ConfigurationError` for images of another size.
    """
    net, description = checkpoints.load(inputs["checkpoint"], _num_classes(config, inputs))
    model = _Model(Normalised(net).to(device()).eval(), description)
    num_images, results = _measured(config, inputs, model)
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
        self._names: list[str] | None = description.get("label_names")

    def class_names(self) -> list[str]:
        """Names in the order of classes; those of ImageNet where there are a thousand without a name.

        Raises `ConfigurationError` for a net whose classes have no names.
        """
        if self._names is None and self.num_classes == benchmarks.NUM_CLASSES:
            return list(benchmarks.imagenet_class_names())
        if self._names is None:
            raise ConfigurationError(
                f"the checkpoint's {self.num_classes} classes have no names: a folder's classes are known by name; fit "
                "the model with data.class_names"
            )
        return self._names


def _num_classes(config: EvaluateConfig, inputs: Inputs) -> int | None:
    """How many classes the images have; None for those of a folder, whose classes have names."""
    if config.released is not None:
        return None
    if "corrupted" in inputs:
        return Artifact.open(inputs["corrupted"]).manifest.facts["num_classes"]
    num_classes = Artifact.open(inputs["images"]).manifest.config["ingest"]["num_classes"]
    if num_classes is None:
        raise LabelError(f"{inputs['images']}: its images have no labels; prepare their source with num_classes")
    return num_classes


def _measured(config: EvaluateConfig, inputs: Inputs, model: _Model) -> tuple[int, Results]:
    """How many images are measured, or sequences, and the results."""
    if config.released is not None:
        return _released(config, inputs["folder"], model)
    if "corrupted" in inputs:
        _check_size(inputs["corrupted"], model)
        num_images = Artifact.open(inputs["corrupted"]).manifest.facts["num_images"]
        if isinstance(config.suite, Perturbations):
            return num_images, perturbations.run(model.net, stored_sequences(inputs["corrupted"]))
        return num_images, corruptions.run(model.net, stored_images(inputs["corrupted"], config.batch_size))
    num_images = sum(Artifact.open(inputs["images"]).manifest.facts["class_counts"].values())
    how = (inputs["images"], model.size, model.crop_fraction, config.batch_size)
    if not isinstance(config.suite, Adversarial):
        return num_images, classification.run(model.net, labelled_batches(*how))
    chosen = labelled_batches(*how, config.suite.num_images, config.suite.seed)
    return min(num_images, config.suite.num_images or num_images), adversarial.run(model.net, chosen, config.suite)


def _released(config: EvaluateConfig, url: str, model: _Model) -> tuple[int, Results]:
    """A released benchmark's; images of ImageNet-C and -P are cut already, and resized whole."""
    net, size, names = model.net, model.size, model.class_names()
    published = len(names) == benchmarks.NUM_CLASSES  # otherwise AlexNet is no baseline
    match config.released:
        case "imagenet_c":
            sets = released.corruption_folders(url, names)
            batches = ((name, severity, found.batches(size, 1.0, config.batch_size)) for name, severity, found in sets)
            results = corruptions.run(net, batches, corruptions.ALEXNET if published else None)
            return len(image_folder(f"{url}/{corruptions.NAMES[0]}/1", names)), results
        case "imagenet_p":
            sequences = ((name, found.sequences(size)) for name, found in released.perturbation_folders(url, names))
            results = perturbations.run(net, sequences, perturbations.ALEXNET if published else None)
            return len(sequence_folder(f"{url}/{perturbations.NAMES[0]}", names)), results
        case "imagenet_a":
            images, run = benchmarks.imagenet_a_folder(url), benchmarks.imagenet_a
        case "real":
            images, run = benchmarks.with_real_labels(image_folder(url, names)), benchmarks.real
        case _:
            images, run = image_folder(url, names), classification.run
    return len(images), run(net, images.batches(size, model.crop_fraction, config.batch_size))


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
