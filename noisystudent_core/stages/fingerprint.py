"""The perceptual hash of every image, part by part: each part once, whatever set it belongs to."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pyarrow as pa

from noisystudent_core.config.data import FingerprintConfig
from noisystudent_core.data import duplicates
from noisystudent_core.data.parts import read_images
from noisystudent_core.data.schemas import FINGERPRINTS
from noisystudent_core.events import Events
from noisystudent_core.stages.by_part import ByPart, Results, Unit, opened
from noisystudent_core.storage.manifest import Artifact, Inputs
from noisystudent_core.storage.stage import stage


def _hash(config: FingerprintConfig, inputs: Inputs, units: Sequence[Unit], events: Events) -> Results:
    """Hash every image of the units; the next part is read meanwhile."""
    read = partial(_read, opened(inputs["unlabelled"]))
    with ThreadPoolExecutor(1, "read") as pool:
        tables = [pool.submit(read, unit) for unit in units[:1]]
        for unit, following in zip(units, [*units[1:], None], strict=True):
            table = tables.pop()
            if following is not None:
                tables.append(pool.submit(read, following))
            try:
                yield unit, duplicates.fingerprint(table.result())
            except Exception as error:
                yield unit, error


def _read(images: Artifact, unit: Unit) -> pa.Table:
    return read_images(images, images.manifest.parts[unit.index], ["image_id", "image", "reason"])


def _without_hash(config: FingerprintConfig, inputs: Inputs, unit: Unit, reason: str) -> pa.Table:
    """Rows in place of a part that is set aside: its ids cannot be known either."""
    columns = {field.name: pa.nulls(unit.num_rows, field.type) for field in FINGERPRINTS}
    return pa.table(columns | {"reason": pa.repeat(f"set aside: {reason}", unit.num_rows)}, schema=FINGERPRINTS)


def _facts(inputs: Inputs, units: Sequence[Unit]) -> dict[str, Any]:
    return {}


_hashing = ByPart("unlabelled", (), _hash, _without_hash, _facts)

fingerprint = stage(_hashing.gather)
plan_fingerprint = _hashing.plan
fingerprint_group = _hashing.group
