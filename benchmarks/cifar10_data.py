"""CIFAR-10 as the recipes take it: few labels, images held out for choices, the rest without labels.

    python -m benchmarks.cifar10_data PARQUET OUT [--seed 0]

PARQUET is a folder with `train-*.parquet` and `test-*.parquet` of `image` and `label`, 0 to 9 in the usual order. OUT
gets a folder `labels-500`, `labels-400` (labels of each class) and `mismatched`, each with labelled, validation, test
and unlabelled images; of `mismatched` an unlabelled set for each share of images that show no animal.
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ANIMALS = (2, 3, 4, 5, 6, 7)  # bird, cat, deer, dog, frog, horse
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
NUM_VALIDATION = 500  # of each class, held out for every choice
NUM_MISMATCHED = 20_000  # unlabelled images, whatever the share: as many as there are of the other classes
MISMATCHED_LABELS = 400  # of each class
SPLITS = ("labelled", "unlabelled", "validation", "test")


def main(source: str, out: str, seed: int) -> None:
    """Write all of it; a set that is there is left as it is."""
    train, test = read(source)
    for num_labels in (500, 400):
        few_labels(train, test, Path(out) / f"labels-{num_labels}", num_labels, seed)
    mismatched(train, test, Path(out) / "mismatched", seed)


def read(source: str) -> tuple[pa.Table, pa.Table]:
    """Training and test images; raises `FileNotFoundError` where there are none."""
    return tuple(_rows(Path(source), f"{split}-*.parquet") for split in ("train", "test"))  # pyright: ignore[reportReturnType]


def few_labels(train: pa.Table, test: pa.Table, folder: Path, num_labels: int, seed: int) -> None:
    """So many labels of each class; the images held out are neither labelled nor unlabelled ones."""
    labelled, validation, rest = _divided(_shuffled(train, seed), num_labels, NUM_VALIDATION)
    unlabelled = rest.select(["image"])
    _write(folder, labelled=labelled, validation=validation, unlabelled=unlabelled, test=test)


def mismatched(train: pa.Table, test: pa.Table, folder: Path, seed: int) -> None:
    """Animals with labels 0 to 5; of each share's unlabelled images so many show something else."""
    shuffled = _shuffled(train, seed)
    labelled, validation, rest = _divided(_animals(shuffled), MISMATCHED_LABELS, NUM_VALIDATION)
    others = shuffled.filter(pa.array(~_is_animal(shuffled)))
    number = min(NUM_MISMATCHED, rest.num_rows, others.num_rows)
    sets = {}
    for share in SHARES:
        num_others = round(share * number)
        parts = [rest.select(["image"]).slice(0, number - num_others), others.select(["image"]).slice(0, num_others)]
        sets[f"unlabelled-{round(100 * share):03d}"] = _shuffled(pa.concat_tables(parts), seed)
    _write(folder, labelled=labelled, validation=validation, test=_animals(test), **sets)


def _rows(folder: Path, pattern: str) -> pa.Table:
    if not (files := sorted(folder.glob(pattern))):
        raise FileNotFoundError(f"{folder}: no {pattern} there; give the folder of CIFAR-10's Parquet files")
    table = pa.concat_tables([pq.read_table(file, columns=["image", "label"]) for file in files])
    image = table["image"].combine_chunks()
    data = image.field("bytes") if pa.types.is_struct(image.type) else image
    return pa.table({"image": data.cast(pa.binary()), "label": table["label"].cast(pa.int64())})


def _shuffled(table: pa.Table, seed: int) -> pa.Table:
    """In the order of a seeded hash of the images' bytes, wherever they come from."""
    key = seed.to_bytes(8, "big")
    hashes = [hashlib.blake2b(image, key=key, digest_size=8).digest() for image in table["image"].to_pylist()]
    return table.take(pa.array(sorted(range(table.num_rows), key=hashes.__getitem__), pa.int64()))


def _divided(table: pa.Table, num_labels: int, num_validation: int) -> tuple[pa.Table, pa.Table, pa.Table]:
    """The first `num_labels` of each class, the next `num_validation`, and what is left."""
    seen: dict[int, int] = {}
    sides: tuple[list[int], list[int], list[int]] = ([], [], [])
    for row, label in enumerate(table["label"].to_pylist()):
        number = seen[label] = seen.get(label, 0) + 1
        sides[(number > num_labels) + (number > num_labels + num_validation)].append(row)
    labelled, validation, rest = (table.take(pa.array(side, pa.int64())) for side in sides)
    return labelled, validation, rest


def _is_animal(table: pa.Table) -> np.ndarray:
    return np.isin(table["label"].to_numpy(), ANIMALS)


def _animals(table: pa.Table) -> pa.Table:
    """Those of six classes, numbered anew."""
    kept = table.filter(pa.array(_is_animal(table)))
    return kept.set_column(1, "label", pa.array(np.searchsorted(ANIMALS, kept["label"].to_numpy()), pa.int64()))


def _write(folder: Path, **tables: pa.Table) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        if not (file := folder / f"{name}.parquet").exists():
            pq.write_table(table, partial := folder / f".{name}.parquet", row_group_size=1000)
            partial.rename(file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
