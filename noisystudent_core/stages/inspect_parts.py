"""What is to be known of every image but its pixels, part by part: each part once, whatever set it belongs to."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from noisystudent_core.config.data import InspectPartsConfig
from noisystudent_core.data.inspection import COLUMNS, inspected
from noisystudent_core.data.schemas import INSPECTIONS
from noisystudent_core.events import Events
from noisystudent_core.stages.by_part import ByPart
from noisystudent_core.stages.units import Results, Unit, each_unit, opened, rows_set_aside
from noisystudent_core.storage.manifest import Inputs
from noisystudent_core.storage.stage import stage


def _look(config: InspectPartsConfig, inputs: Inputs, units: Sequence[Unit], events: Events) -> Results:
    """Look at every image of the units."""
    return each_unit(opened(inputs["images"]), units, COLUMNS, inspected)


def _not_seen(config: InspectPartsConfig, inputs: Inputs, unit: Unit, reason: str) -> pa.Table:
    return rows_set_aside(INSPECTIONS, unit.num_rows, reason)


def _facts(inputs: Inputs, units: Sequence[Unit]) -> dict[str, Any]:
    return {}


_inspection = ByPart("images", (), _look, _not_seen, _facts)

inspect_parts = stage(_inspection.gather)
plan_inspect_parts = _inspection.plan
inspect_parts_group = _inspection.group
