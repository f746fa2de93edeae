"""A checkpoint's metrics on labelled images."""

import pyarrow as pa

from noisystudent_core.config.settings import EvaluateConfig
from noisystudent_core.data.parts import labelled_batches
from noisystudent_core.data.schemas import EVALUATIONS, to_bytes
from noisystudent_core.errors import LabelError
from noisystudent_core.evaluation import accuracy
from noisystudent_core.events import Events
from noisystudent_core.models import checkpoints
from noisystudent_core.models.architectures import Normalised, device
from noisystudent_core.storage.manifest import Artifact, Inputs, publish_part
from noisystudent_core.storage.stage import Place, Written, stage


@stage
def evaluate(config: EvaluateConfig, inputs: Inputs, place: Place, events: Events) -> Written:
    """Measure a model: inputs {"checkpoint", "images"}; the artifact has a row per metric, `facts` the same numbers.

    Raises `LabelError` for unlabelled images and for a checkpoint of other classes.
    """
    images, checkpoint = Artifact.open(inputs["images"]).manifest, Artifact.open(inputs["checkpoint"]).manifest
    num_classes = images.config["ingest"]["num_classes"]
    if num_classes is None:
        raise LabelError(f"{inputs['images']}: its images have no labels; prepare their source with num_classes")
    net, description = checkpoints.load(inputs["checkpoint"], num_classes)
    size, crop_fraction = checkpoints.input_geometry(description)
    num_images = sum(images.facts["class_counts"].values())
    batches = labelled_batches(inputs["images"], size, crop_fraction, config.batch_size)
    metrics = dict(accuracy.run(Normalised(net).to(device()).eval(), batches))
    rows = [
        {
            "model": checkpoint.content_digest,
            "benchmark": config.benchmark,
            "metric": metric,
            "value": value,
            "num_images": num_images,
        }
        for metric, value in metrics.items()
    ]
    data = to_bytes(pa.Table.from_pylist(rows, schema=EVALUATIONS), EVALUATIONS)
    part = publish_part(place.folder, "part-00000.parquet", data, len(rows))
    return Written((part,), facts={"metrics": metrics, "num_images": num_images})
