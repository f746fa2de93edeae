"""A model labels image parts: each part once per model, whatever set it belongs to."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa
from torch import nn

from noisystudent_core.config.settings import PredictConfig, TeacherNoise
from noisystudent_core.data.parts import read_images, read_selection, rows_of_part
from noisystudent_core.data.schemas import to_bytes
from noisystudent_core.events import Events, silent
from noisystudent_core.models import checkpoints
from noisystudent_core.models.architectures import Normalised, device
from noisystudent_core.noise.input_noise import source_geometry
from noisystudent_core.noise.noised_teacher import NoisedTeacher
from noisystudent_core.pseudo_labels.predict import predict_rows
from noisystudent_core.storage.digests import digest
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import (
    Artifact,
    Inputs,
    Part,
    input_digests,
    publish_part,
    stage_key,
)
from noisystudent_core.storage.stage import Place, Written, stage


@dataclass(frozen=True)
class _Unit:
    """The labels of one image part, or of its selected rows, by one model."""

    index: int  # of the part in the images' manifest
    path: str  # relative to the predictions' folder
    rows: pa.Array | None  # None: all


@stage
def predict(config: PredictConfig, inputs: Inputs, place: Place, events: Events) -> Written:
    """Label every image, or the selected ones: inputs {"checkpoint", "images"} and {"selection"}.

    Parts already labelled by this model, by any group or run, are adopted; only missing ones are computed.
    """
    units = _units(config, inputs, place)
    _label(config, inputs, place.folder, _missing(place.folder, units), events)
    images = Artifact.open(inputs["images"]).manifest.parts
    parts = tuple(_part(place.folder, unit, images[unit.index]) for unit in units)
    facts = {
        "image_parts": [unit.index for unit in units],
        "num_classes": Artifact.open(inputs["checkpoint"]).manifest.config["num_classes"],
    }
    return Written(parts, facts=facts)


def plan_predictions(
    config: PredictConfig, inputs: Inputs, root: str, events: Events = silent, *, num_groups: int
) -> list[list[int]]:
    """Share the image parts that this model has not labelled yet into at most `num_groups` groups of indices."""
    place = _place(config, inputs, root)
    missing = [unit.index for unit in _missing(place.folder, _units(config, inputs, place))]
    return [missing[start::num_groups] for start in range(min(num_groups, len(missing)))]


def predict_group(
    config: PredictConfig, inputs: Inputs, root: str, events: Events = silent, *, parts: list[int]
) -> int:
    """Label the image parts of these indices, and return how many images were labelled anew."""
    place = _place(config, inputs, root)
    units = [unit for unit in _units(config, inputs, place) if unit.index in set(parts)]
    return _label(config, inputs, place.folder, _missing(place.folder, units), events)


def _place(config: PredictConfig, inputs: Inputs, root: str) -> Place:
    return Place.under(root, config.kind, stage_key(config, input_digests(inputs)))


def _units(config: PredictConfig, inputs: Inputs, place: Place) -> list[_Unit]:
    """One unit per image part, or per part with a selected row; named by the digests of what is labelled."""
    images = Artifact.open(inputs["images"]).manifest.parts
    key = stage_key(config, {"checkpoint": Artifact.open(inputs["checkpoint"]).manifest.content_digest})
    if "selection" not in inputs:
        return [_Unit(i, place.beside(key, f"{part.digest}.parquet"), None) for i, part in enumerate(images)]
    selection = read_selection(inputs["selection"])
    units = []
    for index in sorted(selection["part"].unique().to_pylist()):
        rows = rows_of_part(selection, index)["row"].combine_chunks()
        name = f"{images[index].digest}-{digest(rows.to_numpy().tobytes())}.parquet"
        units.append(_Unit(index, place.beside(key, name), rows))
    return units


def _missing(folder: Folder, units: Iterable[_Unit]) -> list[_Unit]:
    """The units not stored yet, found by listing their folder once."""
    units = list(units)
    there = {parent: (folder / parent).sizes() for parent in {unit.path.rpartition("/")[0] for unit in units}}
    return [unit for unit in units if unit.path.rpartition("/")[2] not in there[unit.path.rpartition("/")[0]]]


def _label(config: PredictConfig, inputs: Inputs, folder: Folder, units: list[_Unit], events: Events) -> int:
    if not units:
        return 0
    images = Artifact.open(inputs["images"])
    digest_of_net = Artifact.open(inputs["checkpoint"]).manifest.content_digest
    net, geometry = _net(inputs["checkpoint"], digest_of_net, config.noise)  # pyright: ignore[reportArgumentType]
    done, total = 0, sum(_num_rows(unit, images.manifest.parts[unit.index]) for unit in units)
    for unit in units:
        table = read_images(images, images.manifest.parts[unit.index], ["image_id", "image", "reason"])
        table = table if unit.rows is None else table.take(unit.rows)
        labelled = predict_rows(net, table, config, *geometry)
        publish_part(folder, unit.path, to_bytes(labelled, labelled.schema), labelled.num_rows)
        done += labelled.num_rows
        events("progress", done=done, total=total, unit="images")
    return done


@lru_cache(maxsize=2)
def _net(url: str, content_digest: str, noise: TeacherNoise | None) -> tuple[nn.Module, tuple[int, float]]:
    """The net on its device, kept between the groups of a stage, and the size and crop of its images."""
    net, config = checkpoints.load(url)
    labelling, (size, crop_fraction) = Normalised(net).to(device()).eval(), checkpoints.input_geometry(config)
    if noise is None:
        return labelling, (size, crop_fraction)
    return NoisedTeacher(labelling, noise, size), source_geometry(noise.input_noise, size, crop_fraction)


def _num_rows(unit: _Unit, part: Part) -> int:
    return part.num_rows if unit.rows is None else len(unit.rows)


def _part(folder: Folder, unit: _Unit, part: Part) -> Part:
    data = folder.read(unit.path)
    return Part(path=unit.path, num_rows=_num_rows(unit, part), num_bytes=len(data), digest=digest(data))
