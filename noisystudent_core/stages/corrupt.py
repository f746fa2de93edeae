"""Labelled images made worse: the corruptions and perturbation sequences of a set, kept for every model to see."""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from noisystudent_core.config.evaluation import CorruptConfig, Corruptions, Perturbations
from noisystudent_core.data.labels import num_classes_of
from noisystudent_core.data.mixing import derive, id_seeds
from noisystudent_core.data.parts import decode, labelled_rows
from noisystudent_core.data.schemas import PIXELS, from_bytes, to_bytes
from noisystudent_core.errors import LabelError
from noisystudent_core.evaluation import corruptions, perturbations, sequences
from noisystudent_core.evaluation.corruptions import Textures, read_textures
from noisystudent_core.events import Events
from noisystudent_core.models.architectures import device
from noisystudent_core.storage.manifest import Artifact, Inputs, Part, publish_part
from noisystudent_core.storage.stage import Place, Written, stage

BATCH_SIZE = 256
Kind = tuple[str, int]  # a corruption and its severity; of a perturbation 0


@stage
def corrupt(config: CorruptConfig, inputs: Inputs, place: Place, events: Events) -> Written:
    """Corrupt labelled images: inputs {"images"}, and {"frost"}, a folder of textures; a part for each kind.

    Kinds that are there already are adopted. Raises `LabelError` where no image is labelled.
    """
    there = place.folder.sizes()
    images, labels, ids = _chosen(config, inputs["images"])
    textures = read_textures(inputs["frost"]) if "frost" in inputs else None
    kinds = list(_kinds(config.suite, textures))
    parts = []
    for number, kind in enumerate(kinds):

        def tell(done: int, before: int = number * len(labels)) -> None:
            events("progress", done=before + done, total=len(kinds) * len(labels), unit="images")

        name = file_of(kind)
        if name in there:
            data = place.folder.read(name)
            tell(len(labels))
        else:
            data = to_bytes(_table(_worse(config, kind, images, ids, textures, tell), labels), PIXELS)
        parts.append(publish_part(place.folder, name, data, len(labels)))
    num_classes = num_classes_of(Artifact.open(inputs["images"]).manifest)
    facts = {"kinds": [list(kind) for kind in kinds], "num_images": len(labels), "num_classes": num_classes}
    return Written(tuple(parts), facts=facts | {"resolution_px": config.resolution_px})


def file_of(kind: Kind) -> str:
    """The part that holds the images of a kind."""
    name, severity = kind
    return f"{name}-{severity}.parquet" if severity else f"{name}.parquet"


def stored_images(url: str, batch_size: int) -> Iterator[tuple[str, int, Iterator[tuple[Tensor, Tensor]]]]:
    """Each corruption and severity with its batches (uint8 [B, 3, S, S], labels int64 [B]), read at their turn."""
    artifact = Artifact.open(url)
    for (name, severity), part in zip(artifact.manifest.facts["kinds"], artifact.manifest.parts, strict=True):
        yield name, severity, ((pixels[:, 0], labels) for pixels, labels in _stored(artifact, part, batch_size))


def stored_sequences(url: str) -> Iterator[tuple[str, Iterator[tuple[Tensor, int]]]]:
    """Each perturbation with its sequences (uint8 [T, 3, S, S], label), read when it is its turn."""
    artifact = Artifact.open(url)
    for (name, _), part in zip(artifact.manifest.facts["kinds"], artifact.manifest.parts, strict=True):
        yield name, ((pixels[0], int(labels)) for pixels, labels in _stored(artifact, part, 1))


def _stored(artifact: Artifact, part: Part, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of a part: pixels uint8 [B, T, 3, S, S], labels int64 [B]."""
    table = from_bytes(artifact.read(part), PIXELS, f"{artifact.url}/{part.path}")
    size = artifact.manifest.facts["resolution_px"]
    for rows in table.to_batches(max_chunksize=batch_size):
        pixels = np.frombuffer(b"".join(rows["pixels"].to_pylist()), np.uint8).reshape(len(rows), -1, 3, size, size)
        yield torch.from_numpy(pixels.copy()), torch.from_numpy(rows["label"].to_numpy().astype("int64"))


def _chosen(config: CorruptConfig, url: str) -> tuple[Tensor, Tensor, pa.ChunkedArray]:
    """Images uint8 [N, 3, S, S], labels int64 [N] and ids [N] of those that are taken."""
    chosen = list(labelled_rows(url, config.suite.num_images, config.suite.seed))
    if not sum(map(len, chosen)):
        raise LabelError(f"{url}: 0 labelled images; give a set that was prepared with num_classes")
    known = pa.concat_tables(chosen)
    images, _ = decode(known, config.decoded_px, config.crop_fraction)
    return images, torch.from_numpy(known["label"].to_numpy().astype("int64")), known["image_id"]


def _kinds(suite: Corruptions | Perturbations, textures: Textures | None) -> Iterator[Kind]:
    if isinstance(suite, Perturbations):
        yield from ((name, 0) for name in perturbations.NAMES)
    else:
        yield from ((name, severity) for name in corruptions.names(textures) for severity in suite.severities)


def _worse(
    config: CorruptConfig,
    kind: Kind,
    images: Tensor,
    ids: pa.ChunkedArray,
    textures: Textures | None,
    tell: Callable[[int], None],
) -> np.ndarray:
    """The images of a kind, uint8 [N, T, 3, S, S]: of a corruption one, of a perturbation a sequence.

    `tell` is told after each batch how many are done.
    """
    (name, severity), found = kind, []
    seeds = id_seeds(derive(config.suite.seed, name, severity), ids)
    for some, seeds_B in zip(images.split(BATCH_SIZE), seeds.split(BATCH_SIZE), strict=True):
        some = some.to(device())
        if severity:
            worse = corruptions.corrupt(some, name, severity, seeds_B, frost_textures=textures)[None]
        else:
            worse = sequences.perturbation_sequence(some, name, seeds_B, crop_px=config.resolution_px)
        found.append(worse.transpose(0, 1).cpu().numpy())
        tell(sum(map(len, found)))
    return np.concatenate(found)


def _table(pixels: np.ndarray, labels: Tensor) -> pa.Table:
    rows = [image.tobytes() for image in pixels]
    return pa.table({"label": labels.to(torch.int32).numpy(), "pixels": rows}, schema=PIXELS)
