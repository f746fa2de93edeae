"""A model labels image parts: each part once per model, whatever set it belongs to."""

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa

from noisystudent_core.config.settings import PredictConfig
from noisystudent_core.data.schemas import PREDICTIONS, distributions
from noisystudent_core.events import Events
from noisystudent_core.models import checkpoints
from noisystudent_core.models.architectures import Normalised, device
from noisystudent_core.noise.input_noise import source_geometry
from noisystudent_core.noise.noised_teacher import NoisedTeacher
from noisystudent_core.pseudo_labels.forward import Forward
from noisystudent_core.pseudo_labels.pipeline import Labeller
from noisystudent_core.stages.by_part import ByPart
from noisystudent_core.stages.units import Results, Unit, opened, read_unit, rows_set_aside
from noisystudent_core.storage.manifest import Inputs
from noisystudent_core.storage.stage import stage


def _label(config: PredictConfig, inputs: Inputs, units: Sequence[Unit], events: Events) -> Results:
    """Label every image of the units, or their selected ones."""
    images = opened(inputs["images"])
    digest_of_net = opened(inputs["checkpoint"]).manifest.content_digest
    forward, geometry = _forward(inputs["checkpoint"], digest_of_net, config)  # pyright: ignore[reportArgumentType]
    with Labeller(forward, config, *geometry) as labeller:
        yield from labeller.label((unit, partial(read_unit, images, unit)) for unit in units)


@lru_cache(maxsize=2)
def _forward(url: str, content_digest: str, config: PredictConfig) -> tuple[Forward, tuple[int, float]]:
    """The net on its device, kept between the groups of a stage, and the size and crop of its images."""
    net, description = checkpoints.load(url)
    net, (size, crop_fraction) = Normalised(net).to(device()).eval(), checkpoints.input_geometry(description)
    if config.noise is not None:
        net = NoisedTeacher(net, config.noise, size)
        size, crop_fraction = source_geometry(config.noise.input_noise, size, crop_fraction)
    return Forward(net, config, size), (size, crop_fraction)


def _unlabelled(config: PredictConfig, inputs: Inputs, unit: Unit, reason: str) -> pa.Table:
    rows = rows_set_aside(PREDICTIONS, unit.num_rows, reason)
    if config.keep == "label":
        return rows
    num_classes = _num_classes(inputs)  # zeros: Parquet does not give lists of a fixed size back that are null
    zeros = pa.array(np.zeros(unit.num_rows * num_classes, np.float16))
    field = distributions(num_classes).field("probabilities")
    return rows.append_column(field, pa.FixedSizeListArray.from_arrays(zeros, num_classes))


def _facts(inputs: Inputs, units: Sequence[Unit]) -> dict[str, Any]:
    return {"image_parts": [unit.index for unit in units], "num_classes": _num_classes(inputs)}


def _num_classes(inputs: Inputs) -> int:
    return opened(inputs["checkpoint"]).manifest.config["num_classes"]


_labelling = ByPart("images", ("checkpoint",), _label, _unlabelled, _facts)

predict = stage(_labelling.gather)
plan_predict = _labelling.plan
predict_group = _labelling.group
