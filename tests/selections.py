"""Selections as tests look at them: whole tables."""

import pyarrow as pa
import pyarrow.compute as pc

from noisystudent_core.data.schemas import SELECTION, from_bytes
from noisystudent_core.storage.manifest import Artifact


def read_selection(url: str) -> pa.Table:
    """The whole selection as one table, in image id order."""
    artifact = Artifact.open(url)
    parts = artifact.manifest.parts
    return pa.concat_tables([from_bytes(artifact.read(part), SELECTION, f"{url}/{part.path}") for part in parts])


def rows_of_part(selection: pa.Table, part_index: int) -> pa.Table:
    """The selected images of one image part, in row order."""
    return selection.filter(pc.field("part") == part_index).sort_by("row")
