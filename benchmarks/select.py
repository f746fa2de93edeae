"""Selection: predictions of up to 300 million images in, references out, written; time and memory as they grow.

    python -m benchmarks.select              # or `make bench`: ten minutes and 25 GB of disk, on an idle machine
    python -m benchmarks.select --quick      # a trial in seconds

Predictions are drawn, not timed: 1,000 classes of unequal size (the class of rank r has r^-0.8 of the first one's
images), confidences of which 55% are above 0.3, one id in a thousand is that of another image, 50,000 exclusions. Of
each class 130,000 images are wanted, for each 300 million; at that size 84 million are selected, about the paper's 81.
`select` runs in a fresh process, which reads, selects and writes, and tells its time on the clock and of its cores, and
its peak memory, a worker's libraries (torch) included. At a million rows it is compared with a brute-force selection,
row by row. Then `materialise` writes a million images of a kilobyte, shuffled. A promise that is missed gives exit
status 1.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.measuring import all_cores, circumstances, cores
from noisystudent_core.config import (
    ExclusionsConfig,
    MaterialiseConfig,
    PredictConfig,
    PrepareConfig,
    SelectConfig,
    StageSettings,
)
from noisystudent_core.data.schemas import EXCLUSIONS, IMAGE_ID, IMAGES, PREDICTIONS, SELECTION, from_bytes, to_bytes
from noisystudent_core.pseudo_labels.predicted import column
from noisystudent_core.storage.digests import digest
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import Artifact, Part, publish_manifest, publish_part

MOST_S, MOST_GB, MOST_GROWTH = 30, 2.0, 11.5  # the promises, at 300 million rows and from 30 to 300 million

NUM_CLASSES = 1000
BLOCK = 1_000_000  # rows drawn at a time, from a seed of their own: the same whatever the parts
NUM_REPEATED, NUM_EXCLUDED = 1000, 50_000  # rows of each block with an id that others have; ids to leave out
PER_CLASS = 130_000 / 300_000_000  # images wanted of each class, for each row
THRESHOLD = 0.3
IMAGE_BYTES = 1000
Array = np.ndarray


@dataclass(frozen=True)
class Case:
    """Rows in all, and in a part."""

    num_rows: int
    part_rows: int

    @property
    def config(self) -> SelectConfig:
        """As many images of each class as 130,000 are of 300 million."""
        return SelectConfig(threshold=THRESHOLD, num_images_per_class=round(PER_CLASS * self.num_rows))


@dataclass(frozen=True)
class Measured:
    """A stage in a fresh process: seconds on the clock and of all cores, peak memory, rows written."""

    wall_s: float
    cpu_s: float
    peak_gb: float
    num_rows: int


CASES = (Case(1_000_000, 10_000), Case(30_000_000, 10_000), Case(300_000_000, 10_000), Case(300_000_000, 1_000_000))
QUICK = (Case(1_000_000, 10_000), Case(3_000_000, 10_000))


def main(quick: bool, rows: int | None, part_rows: int) -> None:
    """Print the table; exit status 1 if a promise is missed."""
    print(f"{circumstances('pyarrow', 'numpy')}, {cores(all_cores())}\n")
    print("| rows | rows a part | selected | time | of the cores | rows/s | peak memory | drawn in |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    walls: dict[Case, Measured] = {}
    missed = []
    for case in (Case(rows, part_rows),) if rows else QUICK if quick else CASES:
        with tempfile.TemporaryDirectory() as folder:
            inputs, drawn_s = draw(case, folder)
            found = walls[case] = measured("select", case.config, inputs, f"{folder}/selection")
            print(line(case, found, drawn_s), flush=True)
            if case.num_rows == BLOCK and not agrees(case, inputs, f"{folder}/selection"):
                missed.append("the brute-force selection differs")
    missed += list(broken(walls))
    if not rows:
        print(f"\n{materialised(100_000 if quick else 1_000_000)}")
    print(f"\n{'; '.join(missed) or 'no promise'} missed")
    sys.exit(bool(missed))


def line(case: Case, found: Measured, drawn_s: float) -> str:
    """A row of the table."""
    rate = case.num_rows / found.wall_s
    return (
        f"| {case.num_rows:,} | {case.part_rows:,} | {found.num_rows:,} | {found.wall_s:.1f} s | {found.cpu_s:.1f} s | "
        f"{rate:,.0f} | {found.peak_gb:.2f} GB | {drawn_s:.0f} s |"
    )


def broken(found: dict[Case, Measured]) -> Iterator[str]:
    """The promises that these numbers miss."""
    for case, large in found.items():
        if case.num_rows < 300_000_000:
            continue
        if large.wall_s > MOST_S:
            yield f"{large.wall_s:.1f} s of {MOST_S} s"
        if large.peak_gb > MOST_GB:
            yield f"{large.peak_gb:.2f} GB of {MOST_GB} GB"
        small = found.get(Case(case.num_rows // 10, case.part_rows))
        if small and large.wall_s > MOST_GROWTH * small.wall_s:
            yield f"growth {large.wall_s / small.wall_s:.2f} of {MOST_GROWTH}"


def draw(case: Case, folder: str) -> tuple[dict[str, str], float]:
    """Write predictions, the manifest of their images, and exclusions; their addresses, and seconds it took."""
    started = time.perf_counter()
    inputs = {name: f"{folder}/{name}" for name in ("predictions", "images", "exclusions")}
    with ThreadPoolExecutor(all_cores()) as pool:
        blocks = pool.map(
            lambda block: list(write(case, block, inputs["predictions"])), range(-(-case.num_rows // BLOCK))
        )
        parts = tuple(part for of_block in blocks for part in of_block)
    publish_manifest(inputs["predictions"], PredictConfig(), {}, parts)
    publish_manifest(inputs["images"], PrepareConfig(), {}, parts)
    ids = np.unique(predicted(0)[0][:: BLOCK // NUM_EXCLUDED])
    table = pa.table({"image_id": column(ids, IMAGE_ID), "reason": pa.repeat("evaluation_image", len(ids))})
    part = publish_part(Folder.at(inputs["exclusions"]), "0.parquet", to_bytes(table, EXCLUSIONS), len(ids))
    publish_manifest(inputs["exclusions"], ExclusionsConfig(), {}, (part,))
    return inputs, time.perf_counter() - started


def materialised(num_images: int) -> str:
    """Have all these images selected and written, and say how fast that went."""
    with tempfile.TemporaryDirectory() as folder:
        inputs, _ = draw(Case(num_images, 10_000), folder)
        draw_images(num_images, inputs["images"])
        everything = SelectConfig(threshold=0.0, balance="none")
        chosen = {name: inputs[name] for name in ("predictions", "images")}
        measured("select", everything, chosen, f"{folder}/selection")
        chosen = {"images": inputs["images"], "selection": f"{folder}/selection"}
        found = measured("materialise", MaterialiseConfig(), chosen, f"{folder}/selected_images")
    rate, megabytes = found.num_rows / found.wall_s, found.num_rows * IMAGE_BYTES / 1e6
    return (
        f"`materialise`, {found.num_rows:,} images of {IMAGE_BYTES:,} bytes: {found.wall_s:.1f} s, {found.cpu_s:.1f} s "
        f"of the cores, {rate:,.0f} images/s, {megabytes / found.wall_s:.0f} MB/s, peak memory {found.peak_gb:.2f} GB"
    )


def draw_images(num_images: int, url: str) -> None:
    """Store images of random bytes with the ids that were predicted, in place of the manifest that has none."""
    Path(url, "manifest.json").unlink()
    parts = []
    for block in range(-(-num_images // BLOCK)):
        image_id = predicted(block)[0][: num_images - block * BLOCK]
        for start in range(0, len(image_id), 10_000):
            ids = image_id[start : start + 10_000]
            random = np.random.Generator(np.random.SFC64([8, block, start]))
            images = [random.bytes(IMAGE_BYTES) for _ in ids]
            columns = {"image_id": column(ids, IMAGE_ID), "image": pa.array(images, pa.binary())}
            rest = {name: pa.nulls(len(ids), IMAGES.field(name).type) for name in IMAGES.names if name not in columns}
            table = pa.table([(columns | rest)[name] for name in IMAGES.names], schema=IMAGES)
            data, name = to_bytes(table, IMAGES), f"{block:04d}-{start:07d}.parquet"
            parts.append(publish_part(Folder.at(url), name, data, len(ids)))
    publish_manifest(url, PrepareConfig(), {}, tuple(parts))


def write(case: Case, block: int, url: str) -> Iterator[Part]:
    """Store a block of rows as parts; without waiting for the disk, unlike the product."""
    image_id, label, confidence = (column[: case.num_rows - block * BLOCK] for column in predicted(block))
    columns = {"image_id": column(image_id, IMAGE_ID), "label": label, "confidence": confidence}
    table = pa.table(columns | {"reason": pa.nulls(len(label), pa.string())}, schema=PREDICTIONS)
    Path(url).mkdir(parents=True, exist_ok=True)
    for start in range(0, len(label), case.part_rows):
        some = table.slice(start, case.part_rows)
        data, name = to_bytes(some, PREDICTIONS), f"{block:04d}-{start:07d}.parquet"
        Path(url, name).write_bytes(data)
        yield Part(path=name, num_rows=len(some), num_bytes=len(data), digest=digest(data))


def predicted(block: int) -> tuple[Array, Array, Array]:
    """A block's ids V16, labels int32 and confidences float32, each [BLOCK]."""
    random = np.random.Generator(np.random.SFC64([7, block]))
    image_id = np.frombuffer(random.bytes(16 * BLOCK), "V16").copy()
    shared = np.frombuffer(np.random.Generator(np.random.SFC64(7)).bytes(16 * 50 * NUM_REPEATED), "V16")
    image_id[:: BLOCK // NUM_REPEATED] = shared[random.integers(0, len(shared), NUM_REPEATED)]
    weights = np.arange(1, NUM_CLASSES + 1) ** -0.8
    classes = np.searchsorted(np.cumsum(weights) / weights.sum(), (np.arange(2**16) + 0.5) / 2**16)
    label = classes.astype(np.int32)[random.integers(0, 2**16, BLOCK, np.uint16)]
    return image_id, label, random.random(BLOCK, np.float32) ** np.float32(1.5)


def agrees(case: Case, inputs: dict[str, str], out: str) -> bool:
    """Whether a selection is what the rules give when they are followed row by row."""
    artifact = Artifact.open(out)
    tables = [from_bytes(artifact.read(part), SELECTION, out) for part in artifact.manifest.parts]
    columns = pa.concat_tables(tables).select(["image_id", "label", "confidence", "copies"]).to_pydict().values()
    return list(zip(*columns, strict=True)) == brute_force(case, inputs)


def brute_force(case: Case, inputs: dict[str, str]) -> list[tuple[bytes, int, float, int]]:
    """Filter, count once, choose and copy, by sorting everything."""
    exclusions = Artifact.open(inputs["exclusions"])
    table = from_bytes(exclusions.read(exclusions.manifest.parts[0]), EXCLUSIONS, inputs["exclusions"])
    excluded, best = set(table["image_id"].to_pylist()), {}
    image_id, label, confidence = predicted(0)
    for key, of, sure in zip(image_id.tolist(), label.tolist(), confidence.tolist(), strict=True):
        if key not in excluded and sure > np.float32(THRESHOLD):
            best[key] = min((-sure, of), best.get(key, (0, 0)))
    of_class: dict[int, list[tuple[float, bytes]]] = {}
    for key, (falling, of) in best.items():
        of_class.setdefault(of, []).append((falling, key))
    selected, target = [], case.config.num_images_per_class
    for of, images in of_class.items():
        chosen = sorted(images)[:target]
        drawn = sorted(chosen, key=lambda image: (hash_of(image[1], case.config.seed), image[1]))
        for place, (falling, key) in enumerate(drawn):
            selected.append((key, of, -falling, target // len(drawn) + (place < target % len(drawn))))
    return sorted(selected)


def hash_of(image_id: bytes, seed: int) -> int:
    """SplitMix64 over the seed and both halves of the id."""
    mixed = splitmix64(seed % 2**64) ^ int.from_bytes(image_id[:8], "big")
    return splitmix64(splitmix64(mixed) ^ int.from_bytes(image_id[8:], "big"))


def splitmix64(word: int) -> int:
    """One step of the generator."""
    word = (word + 0x9E3779B97F4A7C15) % 2**64
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ word >> 27) * 0x94D049BB133111EB % 2**64
    return word ^ word >> 31


def measured(call: str, config: StageSettings, inputs: dict[str, str], out: str) -> Measured:
    """Run a stage in a process of its own."""
    given = {"call": call, "config": config.model_dump_json(), "inputs": inputs, "out": out}
    command = [sys.executable, "-m", "benchmarks.one_stage", json.dumps(given)]
    return Measured(**json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rows", type=int, help="one size alone")
    parser.add_argument("--part-rows", type=int, default=10_000)
    main(**vars(parser.parse_args()))
