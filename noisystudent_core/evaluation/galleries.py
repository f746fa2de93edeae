"""Pictures of a report: groups of small images with captions, on one PNG and one by one within a page."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
from PIL import Image
from torch import Tensor

from noisystudent_core.data.parts import decode
from noisystudent_core.evaluation import figures
from noisystudent_core.evaluation.figures import TILE, Group

LOSSLESS_PX = 48  # images up to this side keep their pixels
JPEG_QUALITY = 85


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Groups of pictures under one heading."""

    name: str
    title: str
    subtitle: str  # one line
    caption: str
    groups: Sequence[Group]


def png(gallery: Gallery) -> bytes:
    """All groups on one white sheet."""
    return figures.training_batch(gallery.title, gallery.subtitle, gallery.groups)


def data_urls(group: Group) -> list[str]:
    """Each image of a group as an address that has it within."""
    return [_data_url(image) for image in group.images]


def tiles(table: pa.Table) -> tuple[Tensor, list[bool]]:
    """The whole images of rows with `image`, `height`, `width` and `reason`: uint8 [N, 3, S, S], and which are there.

    Small ones keep their pixels where all have one size; others are cut to a square of `TILE` pixels.
    """
    rows = table.select(["height", "width"]).to_pylist()
    sides = [min(row["height"], row["width"]) for row in rows if row["height"] and row["width"]]
    images, reasons = decode(table.select(["image", "reason"]), max(2, min(max(sides, default=TILE), TILE)), 1.0)
    return images, [reason is None for reason in reasons]


def _data_url(image: Tensor) -> str:
    """uint8 [1 or 3, S, S]."""
    lossless = image.shape[-1] <= LOSSLESS_PX
    file = io.BytesIO()
    pixels = Image.fromarray(image.expand(3, -1, -1).permute(1, 2, 0).numpy())
    if lossless:
        pixels.save(file, "PNG", optimize=True)
    else:
        pixels.save(file, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/{'png' if lossless else 'jpeg'};base64,{base64.b64encode(file.getvalue()).decode()}"
