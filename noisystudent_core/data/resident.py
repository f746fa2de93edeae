"""Small sets, decoded once and kept on the device as uint8."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from noisystudent_core.data.parts import decode, labelled_batches, read_images
from noisystudent_core.data.schemas import SELECTION, distributions, from_bytes
from noisystudent_core.errors import ConfigurationError, CorruptArtifactError
from noisystudent_core.storage.manifest import Artifact


@dataclass(frozen=True)
class LabelledImages:
    """images uint8 [N, 3, R, R] and labels int64 [N]."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class PseudoLabelledImages:
    """images uint8 [N, 3, R, R], the teacher's probabilities float32 [N, C], and copies int64 [N]."""

    images: Tensor
    probabilities: Tensor
    copies: Tensor


def load_labelled(url: str, resolution_px: int, device: torch.device, crop_fraction: float = 1.0) -> LabelledImages:
    """Decode a labelled `images` artifact whole: the middle of each image, its shorter side times `crop_fraction`."""
    _check_fits(Artifact.open(url).manifest.num_rows, resolution_px, device)
    batches = list(labelled_batches(url, resolution_px, crop_fraction, 1024))
    images, labels = zip(*batches, strict=True)
    return LabelledImages(torch.cat(images).to(device), torch.cat(labels).to(device))


def load_pseudo_labelled(
    images_url: str,
    selection_url: str,
    predictions_url: str,
    resolution_px: int,
    device: torch.device,
    crop_fraction: float = 1.0,
) -> PseudoLabelledImages:
    """Decode the selected images, as `load_labelled` does, and join the teacher's distributions to them.

    Raises `CorruptArtifactError` where the predictions are not of the selected rows, all of them.
    """
    images, predictions = Artifact.open(images_url), Artifact.open(predictions_url)
    selection = read_selection(selection_url)
    _check_fits(selection.num_rows, resolution_px, device)
    pixels, probabilities, copies = [], [], []
    for part_index, part in zip(predictions.manifest.facts["image_parts"], predictions.manifest.parts, strict=True):
        chosen = rows_of_part(selection, part_index)
        table = read_images(images, images.manifest.parts[part_index], ["image", "reason"]).take(chosen["row"])
        num_classes = predictions.manifest.facts["num_classes"]
        schema = distributions(num_classes)
        labelled = from_bytes(predictions.read(part), schema, f"{predictions.url}/{part.path}")
        if not labelled["image_id"].equals(chosen["image_id"]):
            raise _others(f"{predictions.url}/{part.path}", selection_url)
        pixels.append(decode(table, resolution_px, crop_fraction)[0])
        probabilities.append(_matrix(labelled["probabilities"], num_classes))
        copies.append(torch.from_numpy(chosen["copies"].to_numpy().astype("int64")))
    if sum(map(len, copies)) != selection.num_rows:
        raise _others(predictions.url, selection_url)
    return PseudoLabelledImages(
        torch.cat(pixels).to(device), torch.cat(probabilities).to(device), torch.cat(copies).to(device)
    )


def read_selection(url: str) -> pa.Table:
    """The whole selection as one table, in image id order."""
    artifact = Artifact.open(url)
    parts = artifact.manifest.parts
    return pa.concat_tables([from_bytes(artifact.read(part), SELECTION, f"{url}/{part.path}") for part in parts])


def rows_of_part(selection: pa.Table, part_index: int) -> pa.Table:
    """The selected images of one image part, in row order."""
    return selection.filter(pc.field("part") == part_index).sort_by("row")


def _others(where: str, selection_url: str) -> CorruptArtifactError:
    return CorruptArtifactError(f"{where}: its images are not those of {selection_url}; predict that selection")


def _matrix(column: pa.ChunkedArray, num_classes: int) -> Tensor:
    """Fixed-size lists of float16 as float32 [N, C]."""
    values = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return torch.from_numpy(values.reshape(-1, num_classes).astype("float32"))


def _check_fits(num_images: int, resolution_px: int, device: torch.device) -> None:
    needed = num_images * 3 * resolution_px**2
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _free_memory()
    if needed > 0.8 * free:
        raise ConfigurationError(
            f"{num_images} images of {resolution_px} px need {needed / 1e9:.1f} GB in memory, {free / 1e9:.1f} GB are "
            "free; lower selection.num_images_per_class or model.resolution_px"
        )


def _free_memory() -> int:
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024
