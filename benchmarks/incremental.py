"""What new images cost a week later: a pass over 1% more, against the pass over all of them.

    python -m benchmarks.incremental [--parts 100] [--images 400]

Labels parts of JPEGs of 224 px with `mobilenetv3_small_050`, as the stage does, and then the same set with a part more.
Ends with status 1 where the second pass takes more than 2% of the first one's time for 1% of its images.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import torch
from torchvision.io import encode_jpeg

from benchmarks.measuring import all_cores, circumstances, smooth_fields
from noisystudent_core import stages
from noisystudent_core.config import AdoptConfig, IngestConfig, ModelConfig, PredictConfig, PrepareConfig
from noisystudent_core.data.ingest import image_id
from noisystudent_core.data.schemas import IMAGES, to_bytes
from noisystudent_core.models import checkpoints
from noisystudent_core.models.architectures import create_model
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import Part, publish_manifest, publish_part

MODEL = ModelConfig(name="mobilenetv3_small_050", dropout=0, stochastic_depth=0)
SIZE_PX, NUM_PICTURES, PROMISED = 224, 64, 0.02


def main(num_parts: int, images_per_part: int) -> None:
    """Print both times, and their share."""
    torch.set_num_threads(all_cores())
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        checkpoint = write_checkpoint(root)
        written = write_parts(root, num_parts + 1, images_per_part)
        whole = labelling_s(root, checkpoint, write_images(root, "all", written[:-1]))
        more = labelling_s(root, checkpoint, write_images(root, "more", written))
        again = labelling_s(root, checkpoint, str(root / "images" / "more"))
    print(f"{circumstances('torch', 'torchvision')}\n")
    print("| pass over | s | share |\n| --- | --- | --- |")
    print(f"| {num_parts} parts, {num_parts * images_per_part:,} images | {whole:.1f} | 100% |")
    print(f"| the same and {images_per_part} new images | {more:.2f} | {more / whole:.2%} |")
    print(f"| the same again | {again:.3f} | {again / whole:.2%} |")
    limit = PROMISED * 100 / num_parts
    print(f"\npromised: at most {limit:.0%} for {1 / num_parts:.0%} new images")
    sys.exit(1 if more > limit * whole else 0)


def labelling_s(root: Path, checkpoint: str, images: str) -> float:
    """How long the stage takes."""
    started = time.perf_counter()
    stages.predict(PredictConfig(), {"checkpoint": checkpoint, "images": images}, str(root))
    return time.perf_counter() - started


def write_parts(root: Path, num_parts: int, images_per_part: int) -> list[Part]:
    """Parts of the same pictures, each image with an id of its own."""
    pictures = [encode_jpeg(picture, 90).numpy().tobytes() for picture in smooth_fields(NUM_PICTURES, SIZE_PX)]
    found = []
    for number in range(num_parts):
        columns = {name: [None] * images_per_part for name in IMAGES.names}
        columns["image"] = [pictures[row % NUM_PICTURES] for row in range(images_per_part)]
        columns["image_id"] = [image_id(f"{number} {row}".encode()) for row in range(images_per_part)]
        data = to_bytes(pa.table(columns, schema=IMAGES), IMAGES)
        found.append(publish_part(Folder.at(str(root / "parts")), f"{number}.parquet", data, images_per_part))
    return found


def write_images(root: Path, name: str, parts: list[Part]) -> str:
    """An `images` artifact of these parts."""
    url = str(root / "images" / name)
    beside = tuple(part.model_copy(update={"path": f"../../parts/{part.path}"}) for part in parts)
    publish_manifest(url, PrepareConfig(ingest=IngestConfig()), {"source": name}, beside)
    return url


def write_checkpoint(root: Path) -> str:
    """A fresh net as a checkpoint."""
    net = create_model(MODEL, 1000, seed=0, batch_norm_momentum=0.1)
    folder = Folder.at(str(root / "checkpoints" / "net"))
    parts = tuple(publish_part(folder, name, data, 0) for name, data in checkpoints.encode(net, MODEL).items())
    publish_manifest(folder.url, AdoptConfig(model=MODEL, num_classes=1000), {}, parts)
    return folder.url


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=100)
    parser.add_argument("--images", type=int, default=400)
    given = parser.parse_args()
    main(given.parts, given.images)
