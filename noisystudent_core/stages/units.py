"""The unit of work on images: a part, or its selected rows; how it is read, and what stands in for one that fails."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import pyarrow as pa

from noisystudent_core.data.parts import read_images, selected_rows
from noisystudent_core.data.reading import read_ahead
from noisystudent_core.storage.digests import digest
from noisystudent_core.storage.manifest import Artifact

PIXELS_AND_REASON = ("image_id", "image", "reason")


@dataclass(frozen=True, eq=False)
class Unit:
    """An image part, or its selected rows, and the name of what is made of it."""

    index: int  # of the part in the images' manifest
    name: str
    num_rows: int
    rows: np.ndarray | None  # int32, ascending; None: all of them

    @property
    def file(self) -> str:
        """The result's file, in the folder shared by all runs that do this work."""
        return f"{self.name}.parquet"


Results = Iterator[tuple[Unit, pa.Table | Exception]]


@lru_cache(maxsize=8)
def opened(url: str) -> Artifact:
    """A finished artifact, whose manifest never changes: opened once by a process that does many groups of it."""
    return Artifact.open(url)


@lru_cache(maxsize=2)
def units_of(images: str, selection: str | None) -> tuple[Unit, ...]:
    """A unit for each image part, or for each part with a selected row; named by digests of what is worked on."""
    parts = opened(images).manifest.parts
    if selection is None:
        return tuple(Unit(index, part.digest, part.num_rows, None) for index, part in enumerate(parts))
    return tuple(
        Unit(index, f"{parts[index].digest}-{digest(rows.tobytes())}", len(rows), rows)
        for index, rows in selected_rows(selection)
    )


def read_unit(images: Artifact, unit: Unit, columns: Sequence[str] = PIXELS_AND_REASON) -> pa.Table:
    """These columns of a unit's images."""
    table = read_images(images, images.manifest.parts[unit.index], list(columns))
    return table if unit.rows is None else table.take(unit.rows)


def each_unit(
    images: Artifact, units: Sequence[Unit], columns: Sequence[str], work: Callable[[pa.Table], pa.Table]
) -> Results:
    """What `work` makes of each unit's images, or the error; the next ones are read meanwhile."""
    for unit, table in read_ahead((unit, partial(read_unit, images, unit, columns)) for unit in units):
        try:
            yield unit, table if isinstance(table, Exception) else work(table)
        except Exception as error:
            yield unit, error


def rows_set_aside(schema: pa.Schema, num_rows: int, reason: str) -> pa.Table:
    """Rows in place of a unit that is set aside: nothing but the reason, as its ids cannot be known either."""
    columns = {field.name: pa.nulls(num_rows, field.type) for field in schema}
    return pa.table(columns | {"reason": pa.repeat(f"set aside: {reason}", num_rows)}, schema=schema)
