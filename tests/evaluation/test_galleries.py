"""Pictures of a report, in their own pixels where they are small, all on one sheet."""

import base64
import io
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from noisystudent_core.evaluation import galleries
from noisystudent_core.evaluation.figures import TILE, Group
from noisystudent_core.evaluation.galleries import Gallery

Picture = Callable[..., bytes]


def table(picture: Picture, *sizes: int, reason: str | None = None) -> pa.Table:
    images = [picture(number, size_px=size) for number, size in enumerate(sizes)]
    columns = {"image": images, "height": list(sizes), "width": list(sizes), "reason": [reason] * len(sizes)}
    return pa.table(columns | {"reason": pa.array(columns["reason"], pa.string())})


@pytest.mark.parametrize(("sizes", "side"), [((32, 32), 32), ((500, 300), TILE), ((32, 300), TILE), ((96,), 96)])
def test_tiles_are_as_large_as_the_images_or_a_tile(picture: Picture, sizes: tuple[int, ...], side: int) -> None:
    images, there = galleries.tiles(table(picture, *sizes))
    assert images.shape == (len(sizes), 3, side, side)
    assert there == [True] * len(sizes)


def test_what_was_refused_is_not_there(picture: Picture) -> None:
    both = pa.concat_tables([table(picture, 32), table(picture, 32, reason="truncated")])
    assert galleries.tiles(both)[1] == [True, False]


@pytest.mark.parametrize(("side", "kind", "tolerance"), [(28, "PNG", 0), (96, "JPEG", 12)])
def test_addresses_hold_the_images(side: int, kind: str, tolerance: int) -> None:
    image = torch.arange(side * side).reshape(1, 1, side, side).div(side * side / 255).byte().expand(1, 3, -1, -1)
    (url,) = galleries.data_urls(Group(heading="", images=image, captions=["a"]))
    stored = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    assert url.startswith(f"data:image/{kind.lower()};base64,")
    assert stored.format == kind
    assert abs(np.array(stored).astype(int) - image[0].permute(1, 2, 0).numpy()).max() <= tolerance


def test_groups_of_other_sizes_do_not_lie_on_one_another() -> None:
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    groups = []
    for side, colour in zip((20, 96, 28), colours, strict=True):
        images = torch.tensor([colour] * 3).byte()[..., None, None].expand(-1, -1, side, side)
        groups.append(Group(heading=str(side), images=images, captions=["a"] * 3))
    sheet = galleries.png(Gallery(name="a", title="a", subtitle="a", caption="a", groups=groups))
    pixels = np.array(Image.open(io.BytesIO(sheet)).convert("RGB"))
    found = [int((pixels == colour).all(axis=2).sum()) for colour in colours]
    assert found == [3 * 80**2, 3 * 96**2, 3 * 84**2]
