"""Frost: crops of photographed ice, or, where there are no photographs, of ice that is drawn.

The published textures are not part of this package (they came with ImageNet-C's code: frost1.png to frost6.jpg).
Without them the corruption is called `frost (procedural)`, and no mean with it is a published mCE.
"""

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from noisystudent_core.data.images import decode_image
from noisystudent_core.errors import SourceError
from noisystudent_core.evaluation.corruptions.constants import Generator
from noisystudent_core.evaluation.corruptions.pixels import windows
from noisystudent_core.evaluation.draws import Draws
from noisystudent_core.storage.filesystem import Folder

NUM_TEXTURES = 5  # the published generators bring six and draw from the first five

_SUFFIXES = (".png", ".jpg", ".jpeg")
_ENLARGED = 1.1  # imagecorruptions enlarges its textures by this
_SHRUNK = 0.2  # CIFAR-10-C shrinks them to this
_DRAWN_PX = 512


class Textures:
    """Pictures of frost, uint8 [3, H, W] of any size, made ready for images of a size when they are first needed."""

    def __init__(self, pictures: Sequence[Tensor]) -> None:
        self._pictures = tuple(pictures)
        self._ready: dict[tuple[int, Generator, torch.device], tuple[Tensor, Tensor]] = {}

    def ready(self, size: int, generator: Generator, device: torch.device) -> tuple[Tensor, Tensor]:
        """Textures as float32 [T, H, W, 3], smaller ones padded, and how many places a crop has in each, [T, 2]."""
        key = (size, generator, device)
        if key not in self._ready:
            scaled = [_scaled(picture, size, generator) for picture in self._pictures]
            height, width = (max(texture.shape[axis] for texture in scaled) for axis in (1, 2))
            padded = [F.pad(each, (0, width - each.shape[2], 0, height - each.shape[1])) for each in scaled]
            choices = torch.tensor([[each.shape[1] - size, each.shape[2] - size] for each in scaled])
            self._ready[key] = torch.stack(padded).permute(0, 2, 3, 1).contiguous().to(device), choices.to(device)
        return self._ready[key]


def read_textures(url: str) -> Textures:
    """The first five pictures (PNG or JPEG) in order of their names in a folder, as the published generators have them.

    Raises `SourceError` where there is none, `ImageError` where one cannot be decoded.
    """
    folder = Folder.at(url)
    names = sorted(name for name in folder.sizes() if name.lower().endswith(_SUFFIXES))
    if not names:
        raise SourceError(f"{url}: 0 pictures of frost; give a folder with at least 1 PNG or JPEG, or none at all")
    return Textures([decode_image(folder.read(name)) for name in names[:NUM_TEXTURES]])


def frost(
    images: Tensor, constants: tuple[float, float], draws: Draws, generator: Generator, textures: Textures
) -> Tensor:
    """Blend each image with a random crop of a random texture; uint8 [B, 3, S, S], result float32."""
    size = images.shape[-1]
    ready, choices = textures.ready(size, generator, images.device)
    uniform = draws.uniform(0, 3)
    texture_B = (uniform[:, 0] * len(ready)).long()
    row_B, column_B = (uniform[:, 1:] * choices[texture_B]).long().unbind(1)
    crops = windows(ready, size, size)[texture_B, row_B, column_B].unflatten(2, (-1, 3)).permute(0, 3, 1, 2)
    return images * constants[0] + crops * constants[1]


def _scaled(picture: Tensor, size: int, generator: Generator) -> Tensor:
    """A texture as the generator scales it, and larger where no crop would fit: whole grey levels, float32."""
    least = (size + 1) / min(picture.shape[1:])
    if generator == "cifar10_c":
        factor, mode = max(_SHRUNK, least), "bilinear"
    else:
        factor, mode = max(1.0, size / min(picture.shape[1:])) * _ENLARGED, "bicubic"
    sides = [max(size + 1, math.ceil(side * factor)) for side in picture.shape[1:]]
    scaled = F.interpolate(picture[None].float(), size=sides, mode=mode, align_corners=False)  # OpenCV's, and its cubic
    return scaled[0].round().clamp(0, 255)


@functools.lru_cache(maxsize=1)
def drawn_textures() -> Textures:
    """Five pictures of ice: bluish ridges of noise at every scale, the same on every machine."""
    return Textures([_drawn(number) for number in range(NUM_TEXTURES)])


def _drawn(number: int) -> Tensor:
    """Needles: noise of several scales, folded at zero to sharp ridges, each stretched along a direction of its own."""
    draws = Draws(torch.tensor([number]))
    ridges = torch.zeros(_DRAWN_PX, _DRAWN_PX)
    for octave in range(1, 7):
        cells = 2**octave
        stretched = (cells, 2 * cells) if octave % 2 else (2 * cells, cells)
        noise = F.interpolate(draws.normal(octave, 1, *stretched), size=(_DRAWN_PX,) * 2, mode="bicubic")[0, 0]
        ridges += (1 - noise.abs()).clamp(min=0) / octave
    grey = ridges / ridges.max()
    tint = torch.tensor([0.82, 0.93, 1.0])[:, None, None]
    return (grey**1.2 * 235 * tint + 20).round().clamp(0, 255).to(torch.uint8)
