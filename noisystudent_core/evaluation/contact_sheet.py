"""Pairs of images side by side, as PNG bytes."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps

from noisystudent_core.data.images import decode_image
from noisystudent_core.data.parts import ANY_SIZE

# lengths are pixels of the PNG
TILE, INNER_GAP, GAP, MARGIN = 112, 2, 16, 24
NUM_COLUMNS = 4  # of pairs
TITLE, TEXT, CAPTION = 20, 14, 12  # heights of letters
HEAD = 84  # of title and subtitle
INK, GREY, PAPER, BACKGROUND = "#1f2328", "#656d76", "#ffffff", "#d0d7de"
MAX_BYTES = 550_000  # a larger PNG is stored in 256 colours


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two image files, and what is said of them."""

    left: bytes
    right: bytes
    caption: str


def contact_sheet(title: str, subtitle: str, pairs: Sequence[Pair]) -> bytes:
    """Draw pairs, whole images scaled into squares, from left to right, `NUM_COLUMNS` a row.

    Raises `ImageError` for a file that is no image.
    """
    width, height = place(NUM_COLUMNS - 1)[0] + 2 * TILE + INNER_GAP + MARGIN, place(len(pairs) - 1)[1] + TILE
    sheet = Image.new("RGB", (width, height + CAPTION + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, INK, ImageFont.load_default(TITLE))
    draw.text((MARGIN, MARGIN + TITLE + 10), subtitle, GREY, ImageFont.load_default(TEXT))
    for number, pair in enumerate(pairs):
        x, y = place(number)
        sheet.paste(tile(pair.left), (x, y))
        sheet.paste(tile(pair.right), (x + TILE + INNER_GAP, y))
        draw.text((x, y + TILE + 4), pair.caption, GREY, ImageFont.load_default(CAPTION))
    png = _png(sheet)
    return png if len(png) <= MAX_BYTES else _png(sheet.quantize(256))


def place(number: int) -> tuple[int, int]:
    """Upper left corner (x, y) of pair `number`."""
    row, column = divmod(number, NUM_COLUMNS)
    return MARGIN + column * (2 * TILE + INNER_GAP + GAP), HEAD + row * (TILE + CAPTION + GAP)


def tile(data: bytes) -> Image.Image:
    """The whole image on a grey square of `TILE` pixels; small ones grow with square pixels."""
    pixels = Image.fromarray(decode_image(data, max_pixels=ANY_SIZE).permute(1, 2, 0).numpy())
    smaller = max(pixels.size) < TILE
    return ImageOps.pad(
        pixels, (TILE, TILE), Image.Resampling.NEAREST if smaller else Image.Resampling.BICUBIC, "#d0d7de"
    )


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()
