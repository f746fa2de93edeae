"""What an inspection keeps of an image: everything but its pixels."""

import io
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from noisystudent_core.data.duplicates import fingerprint
from noisystudent_core.data.schemas import INSPECTIONS

COLUMNS = ["image_id", "image", "label", "source", "height", "width", "reason"]  # of images, that are looked at


class Kind(NamedTuple):
    """How an image file is encoded, in Pillow's words: "JPEG" and "CMYK"; None where Pillow knows no such file."""

    format: str | None
    mode: str | None


def kind_of(data: bytes) -> Kind:
    """Format and mode of an image file by its header, whatever the file is called."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return Kind(image.format, image.mode)
    except Exception:  # Pillow's plugins raise anything on damaged files
        return Kind(None, None)


def inspected(table: pa.Table) -> pa.Table:
    """Look at the images of a part: `COLUMNS` in, rows of the `INSPECTIONS` schema out, in order.

    A damaged image has the reason of its intake, or else that of `decode_image`, and nothing is said of its looks.
    """
    hashed = fingerprint(table)
    good = hashed["reason"].is_null().to_pylist()
    kinds = [kind_of(image.as_py()) if ok else Kind(None, None) for image, ok in zip(table["image"], good, strict=True)]
    columns = {name: table[name] for name in ("image_id", "label", "source", "height", "width")}
    columns |= {"num_bytes": pc.call_function("binary_length", [table["image"]]).cast(pa.int64())}
    columns |= {"format": pa.array([kind.format for kind in kinds], pa.string())}
    columns |= {"mode": pa.array([kind.mode for kind in kinds], pa.string())}
    return pa.table(columns | {name: hashed[name] for name in ("hash", "reason")}, schema=INSPECTIONS)
