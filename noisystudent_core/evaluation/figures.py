"""Figures of training images, as PNG bytes; each on a canvas of its own, so that any thread may draw."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.transforms import IdentityTransform
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

# lengths are pixels of the PNG, places are counted from its upper left corner
TILE = 96  # small images are drawn at the largest whole multiple within it
REDUCED = 80  # larger ones are reduced to this: 64 photographs make some 500 kB
FRAME = 1  # around a tile: a white image ends somewhere
NUM_COLUMNS = 8
MARGIN, GAP, SPACE = 24, 6, 28  # around everything, between tiles, between blocks of tiles
TITLE, TEXT, CAPTION = 20, 14, 13  # heights of letters
HEAD = 92  # of title and subtitle
BAR = 5
INK, GREY, PALE = "#1f2328", "#656d76", 0xD0
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#a0568a", "#59636e")  # of groups, after Okabe and Ito
DPI = 64  # a power of two: whole pixels stay whole in matplotlib's inches
MAX_BYTES = 550_000  # a larger PNG is stored in 256 colours


@dataclass(frozen=True, kw_only=True)
class Group:
    """Images of one origin within a batch: uint8 [N, 1 or 3, S, S], for each a caption, and a note below it or none."""

    heading: str
    images: Tensor
    captions: Sequence[str]
    notes: Sequence[str] = ()


def noise_grid(title: str, subtitle: str, operations: Sequence[str], rows: Mapping[str, Tensor]) -> bytes:
    """Draw one image under every operation of noise: a column per operation, a row per level, in bands of columns.

    `rows` gives by its label each row's images, uint8 [O, 1 or 3, S, S] in the order of the O operations.
    """
    tiles = {label: _tiles(images) for label, images in rows.items()}
    pitch = next(iter(tiles.values())).shape[1] + GAP
    num_bands = -(-len(operations) // NUM_COLUMNS)
    num_columns = -(-len(operations) // num_bands)
    left = MARGIN + _width(max(rows, key=len), TEXT) + 2 * GAP
    above = round(2.6 * TEXT)  # an operation's name, in two lines at most
    band = above + len(rows) * pitch - GAP + SPACE
    right = left + num_columns * pitch - GAP
    sheet = _Sheet(title, subtitle, right, HEAD + num_bands * band - SPACE)
    for number, operation in enumerate(operations):
        x, y = left + number % num_columns * pitch, HEAD + number // num_columns * band + above
        for line, word in enumerate(reversed(_in_lines(operation))):
            sheet.text(x + (pitch - GAP) / 2, y - 2 * GAP - line * round(1.1 * TEXT), word, TEXT, ha="center")
        for row, (label, images) in enumerate(tiles.items()):
            sheet.image(x, y + row * pitch, images[number])
            if number % num_columns == 0:
                middle = y + row * pitch + (pitch - GAP) / 2
                sheet.text(x - 2 * GAP, middle, label, TEXT, ha="right", va="center", color=GREY)
    return sheet.png()


def training_batch(title: str, subtitle: str, groups: Sequence[Group]) -> bytes:
    """Draw the images of a batch as the model sees them, group under group; each group has a colour of its own."""
    tiles = [_tiles(group.images) for group in groups]
    num_columns = min(NUM_COLUMNS, max(map(len, tiles)))
    pitch = max(images.shape[1] for images in tiles) + GAP
    lines = [_line_height(group) for group in groups]
    heights = [
        2 * TEXT + -(-len(images) // num_columns) * (pitch + line) - GAP
        for images, line in zip(tiles, lines, strict=True)
    ]
    left = MARGIN + BAR + 2 * GAP
    right = left + num_columns * pitch - GAP
    sheet = _Sheet(title, subtitle, right, HEAD + sum(heights) + (len(groups) - 1) * SPACE)
    y = HEAD
    for group, images, line, height, colour in zip(groups, tiles, lines, heights, cycle(COLOURS), strict=False):
        sheet.bar(MARGIN, y, BAR, height, colour)
        sheet.text(left, y + TEXT, group.heading, TEXT, color=colour, weight="bold")
        for number, image in enumerate(images):
            x, top = left + number % num_columns * pitch, y + 2 * TEXT + number // num_columns * (pitch + line)
            sheet.image(x, top, image)
            sheet.caption(x, top + pitch - GAP, pitch - GAP, group, number)
        y += height + SPACE
    return sheet.png()


class _Sheet:
    """A white page with a title, to put images and text on; they reach as far as `right` and `bottom`."""

    def __init__(self, title: str, subtitle: str, right: int, bottom: int) -> None:
        self._width = max(right, MARGIN + _width(subtitle, TEXT)) + MARGIN
        self._height = bottom + MARGIN
        self._figure = Figure(figsize=(self._width / DPI, self._height / DPI), dpi=DPI, facecolor="white")
        self._canvas = FigureCanvasAgg(self._figure)
        self.text(MARGIN, MARGIN + TITLE, title, TITLE, weight="bold")
        self.text(MARGIN, MARGIN + TITLE + 2 * TEXT, subtitle, TEXT, color=GREY)

    def caption(self, x: int, y: int, width: int, group: Group, number: int) -> None:
        """The caption of a group's image, centred below it, and the note below that."""
        lines = [(group.captions[number], INK)] + [(note, GREY) for note in group.notes[number : number + 1]]
        for line, (text, colour) in enumerate(lines, start=1):
            baseline = y + line * round(1.25 * CAPTION)
            self.text(x + width / 2, baseline, _shortened(text, width + GAP), CAPTION, ha="center", color=colour)

    def text(self, x: float, y: float, text: str, height: int, *, color: str = INK, **style: Any) -> None:
        """A line of text upon the baseline y, unless `va` says otherwise."""
        self._figure.text(
            x / self._width,
            1 - y / self._height,
            text,
            fontsize=height * 72 / DPI,  # points
            color=color,
            parse_math=False,  # a class may be called "$"
            **style,
        )

    def image(self, x: int, y: int, pixels: NDArray[np.uint8]) -> None:
        self._figure.figimage(pixels, x, self._height - y - len(pixels), origin="upper")

    def bar(self, x: int, y: int, width: int, height: int, colour: str) -> None:
        corner = (x, self._height - y - height)
        self._figure.add_artist(Rectangle(corner, width, height, color=colour, lw=0, transform=IdentityTransform()))

    def png(self) -> bytes:
        self._canvas.draw()
        page = Image.fromarray(np.asarray(self._canvas.buffer_rgba())[..., :3])
        data = _encoded(page)
        if len(data) <= MAX_BYTES:
            return data
        return _encoded(page.quantize(palette=page.quantize(256), dither=Image.Dither.FLOYDSTEINBERG))


def _encoded(page: Image.Image) -> bytes:
    file = io.BytesIO()
    page.save(file, "PNG")
    return file.getvalue()


def _tiles(images: Tensor) -> NDArray[np.uint8]:
    """uint8 [N, 1 or 3, S, S] as framed [N, T, T, 3]: pixels repeated for small images, large ones reduced."""
    images = images.cpu()
    if images.shape[-1] > TILE:
        images = F.interpolate(images, size=(REDUCED, REDUCED), mode="bilinear", antialias=True)
    else:
        factor = TILE // images.shape[-1]
        images = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    framed = F.pad(images.expand(-1, 3, -1, -1), (FRAME,) * 4, value=PALE)
    return framed.permute(0, 2, 3, 1).numpy()


def _line_height(group: Group) -> int:
    """The height of caption and note below a row of images."""
    return round((1.6 + 1.25 * bool(group.notes)) * CAPTION)


def _width(text: str, height: int) -> int:
    """About the width of a text."""
    return round(0.6 * height * len(text))


def _in_lines(operation: str) -> list[str]:
    """AutoContrast in two lines, parted at its inner capital."""
    return re.split(r"(?<=[a-z])(?=[A-Z])", operation, maxsplit=1)


def _shortened(text: str, width: int) -> str:
    """As much of a text as fits beneath a tile."""
    text = " ".join(text.split())
    length = width // _width("n", CAPTION)
    return text if len(text) <= length else text[: length - 1] + "…"
