"""Small sets, decoded once and kept on the device as uint8."""

from pathlib import Path

import torch
from torch import Tensor

from noisystudent_core.data.encoded import EncodedImages, undecodable
from noisystudent_core.data.image_files import NUM_THREADS
from noisystudent_core.data.images import decode_batch
from noisystudent_core.data.parts import ANY_SIZE, DECODE_ROWS
from noisystudent_core.errors import ConfigurationError


def load(
    source: EncodedImages, resolution_px: int, device: torch.device, crop_fraction: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Decode all images of a source to uint8 [N, 3, R, R], with what is known of each [N, ...].

    Of each image the middle is kept, its shorter side times `crop_fraction`.

    Raises `ConfigurationError` where they do not fit into memory, `CorruptArtifactError` for one that cannot
    be decoded.
    """
    num_images = sum(source.part_sizes)
    if not fits(num_images, resolution_px, device):
        needed, free = (number / 1e9 for number in (num_images * 3 * resolution_px**2, _free_memory(device)))
        raise ConfigurationError(
            f"{num_images} images of {resolution_px} px need {needed:.1f} GB in memory, {free:.1f} GB are free; set "
            "execution.data=streaming, or lower selection.num_images_per_class or model.resolution_px"
        )
    images = torch.empty(num_images, 3, resolution_px, resolution_px, dtype=torch.uint8, device=device)
    known, start = [], 0
    for part, size in enumerate(source.part_sizes):
        if size == 0:
            continue  # maybe because it cannot be read
        encoded, known_of_part = source.read(part, torch.arange(size))
        for first in range(0, size, DECODE_ROWS):
            rows = slice(first, min(first + DECODE_ROWS, size))
            decoded, reasons = decode_batch(
                encoded[rows], resolution_px, crop_fraction, num_threads=NUM_THREADS, max_pixels=ANY_SIZE
            )
            for place, reason in enumerate(reasons, first):
                if reason is not None:
                    raise undecodable(source, part, place, reason)
            images[start + rows.start : start + rows.stop] = decoded
        known.append(known_of_part)
        start += size
    return images, torch.cat(known).to(device)


def fits(num_images: int, resolution_px: int, device: torch.device, share: float = 0.8) -> bool:
    """Whether decoded images take at most this share of the memory that is free."""
    return num_images * 3 * resolution_px**2 <= share * _free_memory(device)


def _free_memory(device: torch.device) -> int:
    """Bytes that are free on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024
