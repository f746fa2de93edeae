"""The perceptual hash of every image, part by part: each part once, whatever set it belongs to."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from noisystudent_core.config.data import FingerprintConfig
from noisystudent_core.data import duplicates
from noisystudent_core.data.schemas import FINGERPRINTS
from noisystudent_core.events import Events
from noisystudent_core.stages.by_part import ByPart
from noisystudent_core.stages.units import PIXELS_AND_REASON, Results, Unit, each_unit, opened, rows_set_aside
from noisystudent_core.storage.manifest import Inputs
from noisystudent_core.storage.stage import stage


def _hash(config: FingerprintConfig, inputs: Inputs, units: Sequence[Unit], events: Events) -> Results:
    """Hash every image of the units."""
    return each_unit(opened(inputs["unlabelled"]), units, PIXELS_AND_REASON, duplicates.fingerprint)


def _without_hash(config: FingerprintConfig, inputs: Inputs, unit: Unit, reason: str) -> pa.Table:
    return rows_set_aside(FINGERPRINTS, unit.num_rows, reason)


def _facts(inputs: Inputs, units: Sequence[Unit]) -> dict[str, Any]:
    return {}


_hashing = ByPart("unlabelled", (), _hash, _without_hash, _facts)

fingerprint = stage(_hashing.gather)
plan_fingerprint = _hashing.plan
fingerprint_group = _hashing.group
