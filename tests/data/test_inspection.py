"""What is kept of an image is what its bytes say, whatever its name says."""

import io

import pyarrow as pa
import pytest
from PIL import Image

from noisystudent_core.data.inspection import COLUMNS, Kind, inspected, kind_of
from noisystudent_core.data.references import image_id
from noisystudent_core.data.schemas import IMAGES, INSPECTIONS

KINDS = [
    ("JPEG", "RGB"),
    ("JPEG", "L"),
    ("JPEG", "CMYK"),
    ("PNG", "P"),
    ("PNG", "1"),
    ("PNG", "LA"),
    ("PNG", "RGBA"),
    ("PNG", "I;16"),
    ("WEBP", "RGB"),
    ("GIF", "P"),
    ("BMP", "RGB"),
]


def file(form: str, mode: str, size: tuple[int, int] = (20, 12)) -> bytes:
    sink = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert(mode).save(sink, form)
    return sink.getvalue()


@pytest.mark.parametrize(("form", "mode"), KINDS)
def test_formats_and_modes(form: str, mode: str) -> None:
    assert kind_of(file(form, mode)) == Kind(form, mode)


@pytest.mark.parametrize("data", [b"", b"words", b"\x89PNG\r\n\x1a\n", file("PNG", "RGB")[:20]])
def test_what_pillow_cannot_open_has_no_kind(data: bytes) -> None:
    assert kind_of(data) == Kind(None, None)


def test_a_row_for_each_image() -> None:
    good, cut = file("JPEG", "RGB"), file("PNG", "RGB")[:-20]
    rows = [
        {"image_id": image_id(good), "image": good, "label": 3, "source": "a.png", "height": 12, "width": 20},
        {"image_id": image_id(cut), "image": cut, "source": "b.png", "reason": "truncated"},
    ]
    found = inspected(pa.Table.from_pylist(rows, IMAGES).select(COLUMNS))
    assert found.schema.equals(INSPECTIONS)
    first, second = found.to_pylist()
    assert first.pop("hash") is not None
    kept = {name: rows[0][name] for name in ("image_id", "label", "source", "height", "width")}
    assert first == kept | {"num_bytes": len(good), "format": "JPEG", "mode": "RGB", "reason": None}
    nothing = dict.fromkeys(("label", "height", "width", "format", "mode", "hash"))
    assert second == nothing | {
        "image_id": image_id(cut),
        "source": "b.png",
        "num_bytes": len(cut),
        "reason": "truncated",
    }
