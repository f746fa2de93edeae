"""Evaluation images that stand in the unlabelled set as well."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from noisystudent_core.config.settings import ExclusionsConfig
from noisystudent_core.data.parts import read_images
from noisystudent_core.data.schemas import EXCLUSIONS, IMAGE_ID, to_bytes
from noisystudent_core.events import Events
from noisystudent_core.storage.manifest import Artifact, Inputs, publish_part
from noisystudent_core.storage.stage import Place, Written, stage


@stage
def exclusions(config: ExclusionsConfig, inputs: Inputs, place: Place, events: Events) -> Written:
    """List the unlabelled images to leave out: inputs {"unlabelled"} and any evaluation sets under their names."""
    evaluation = [table for name, url in inputs.items() if name != "unlabelled" for table in _ids(url)]
    looked_for = pa.concat_tables(evaluation)["image_id"].combine_chunks() if evaluation else pa.array([], IMAGE_ID)
    found: set[bytes] = set()
    for table in _ids(inputs["unlabelled"]):
        found.update(table.filter(pc.field("image_id").isin(looked_for))["image_id"].to_pylist())
    columns = {"image_id": sorted(found), "reason": ["evaluation_image"] * len(found)}
    data = to_bytes(pa.table(columns, schema=EXCLUSIONS), EXCLUSIONS)
    part = publish_part(place.folder, "part-00000.parquet", data, len(found))
    return Written((part,), facts={"evaluation_image": len(found)})


def _ids(url: str) -> Iterator[pa.Table]:
    """The image ids of each part, as a table of one column."""
    artifact = Artifact.open(url)
    for part in artifact.manifest.parts:
        yield read_images(artifact, part, ["image_id"])
