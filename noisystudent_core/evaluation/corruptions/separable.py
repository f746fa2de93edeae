"""Linear filters of square images as few products of matrices: X becomes the sum over r of L_r X R_r^T.

Borders are part of the matrices. A filter that treats rows and columns alike, such as a disk or a mean of zooms, is a
sum of products M_r X M_r^T, whose parts come from an eigenvalue decomposition; parts that change no pixel by a
hundredth of a grey level are left out.
"""

import functools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Border = Literal["nearest", "reflect", "mirror"]  # scipy's names: aaa|abc, cba|abc, dcb|abc (OpenCV's 101)
Matrix = NDArray[np.float64]

_NEGLIGIBLE = 0.01 / 255


@dataclass(frozen=True)
class Separable:
    """The filter on one device: `right` [S, R x S], `left` [S, S x R], both float32."""

    left: Tensor
    right: Tensor

    @classmethod
    def of(cls, weights: list[float], matrices: list[Matrix], device: torch.device) -> "Separable":
        """The sum of weights[r] x matrices[r] X matrices[r]^T; matrices [S_out, S_in]."""
        stack = np.stack(matrices)
        size = stack.shape[2]
        left = (np.asarray(weights)[:, None, None] * stack).transpose(1, 2, 0).reshape(stack.shape[1], -1)
        right = stack.transpose(2, 0, 1).reshape(size, -1)
        return cls(*(torch.from_numpy(part).float().contiguous().to(device) for part in (left, right)))

    def __call__(self, images: Tensor) -> Tensor:
        """Filter float32 [..., S, S]; images one by one, so that no batch changes a sum."""
        size, out = images.shape[-1], len(self.left)
        flat = images.reshape(-1, size, size)
        rows = torch.bmm(flat, self.right.expand(len(flat), -1, -1)).view(len(flat), -1, out)  # [N, S x R, S]
        return torch.bmm(self.left.expand(len(flat), -1, -1), rows).view(*images.shape[:-2], out, out)


@functools.lru_cache(maxsize=64)
def gaussian(size: int, sigma: float, border: Border, truncate: float, device: torch.device) -> Separable:
    """A Gaussian cut off at `truncate` sigmas, as scipy's `gaussian_filter1d` builds it."""
    radius = int(truncate * sigma + 0.5)
    x = np.arange(-radius, radius + 1)
    taps = np.exp(-0.5 / (sigma * sigma) * x**2) if sigma > 0 else np.ones(1)
    return Separable.of([1.0], [_banded(taps / taps.sum(), size, border)], device)


@functools.lru_cache(maxsize=64)
def disk(size: int, radius: float, smoothing: float, device: torch.device) -> Separable:
    """A disk whose edge is smoothed by a Gaussian of 3 x 3 pixels, 5 x 5 for radii above 8 (`defocus_blur`)."""
    reach, side = (8, 3) if radius <= 8 else (int(radius), 5)
    x = np.arange(-reach, reach + 1)
    kernel = (x**2 + x[:, None] ** 2 <= radius**2).astype(np.float64)
    blur = np.exp(-((np.arange(side) - side // 2) ** 2) / (2 * smoothing**2))
    smooth = _banded(blur / blur.sum(), len(x), "mirror")
    kernel = smooth @ (kernel / kernel.sum()) @ smooth.T
    values, vectors = np.linalg.eigh(kernel)
    parts = _largest(np.abs(values) * np.abs(vectors).sum(0) ** 2)
    matrices = [_banded(vectors[:, part], size, "mirror") for part in parts]
    return Separable.of(values[parts].tolist(), matrices, device)


@functools.lru_cache(maxsize=64)
def mean_zoom(size: int, factors: tuple[float, ...], centred: bool, device: torch.device) -> Separable:
    """The mean of the image and of its zooms by each factor (`zoom_blur`); see `zoom`."""
    zooms = np.stack([np.eye(size)] + [zoom(size, factor, centred) for factor in factors])
    flat = zooms.reshape(len(zooms), -1)
    values, vectors = np.linalg.eigh(flat @ flat.T)  # of the small side: `flat` has rank len(zooms) at most
    found = vectors.T @ flat  # rows are orthogonal; the sum of z z^T is the sum of their products
    matrices = found.reshape(zooms.shape)
    parts = _largest(np.abs(matrices).sum(2).max(1) ** 2 / len(zooms) * (values > 0))
    return Separable.of([1 / len(zooms)] * len(parts), [matrices[part] for part in parts], device)


def zoom(size: int, factor: float, centred: bool) -> Matrix:
    """One axis of the published `clipped_zoom`: the middle of an image, enlarged linearly to its size [size, size].

    A few pixels more than `size` come out; `centred` cuts the middle of them (CIFAR-10-C), else the first.
    """
    inner = math.ceil(size / factor)
    enlarged = enlargement(inner, factor)
    start = (len(enlarged) - size) // 2 if centred else 0
    matrix = np.zeros((size, size))
    first = (size - inner) // 2
    matrix[:, first : first + inner] = enlarged[start : start + size]
    return matrix


def enlargement(size: int, factor: float) -> Matrix:
    """Linear interpolation between the first and the last pixel, as `scipy.ndimage.zoom` of order 1 [out, size]."""
    out = round(size * factor)
    places = np.arange(out) * ((size - 1) / max(out - 1, 1))
    lower = np.minimum(places.astype(int), max(size - 2, 0))
    matrix = np.zeros((out, size))
    matrix[np.arange(out), np.minimum(lower + 1, size - 1)] = places - lower
    matrix[np.arange(out), lower] += 1 - (places - lower)
    return matrix


@functools.lru_cache(maxsize=64)
def flakes(size: int, factor: float, device: torch.device) -> Separable:
    """`enlargement` of both axes."""
    return Separable.of([1.0], [enlargement(size, factor)], device)


def _banded(taps: NDArray[np.float64], size: int, border: Border) -> Matrix:
    """The matrix that correlates an axis with an odd number of taps."""
    matrix = np.zeros((size, size))
    radius = len(taps) // 2
    rows = np.arange(size)
    for offset, tap in zip(range(-radius, radius + 1), taps, strict=True):
        np.add.at(matrix, (rows, _folded(rows + offset, size, border)), tap)
    return matrix


def _folded(places: NDArray[np.int64], size: int, border: Border) -> NDArray[np.int64]:
    """The pixel that stands for one outside the image."""
    if border == "nearest" or size == 1:
        return places.clip(0, size - 1)
    if border == "reflect":
        places = places % (2 * size)
        return np.minimum(places, 2 * size - 1 - places)
    places = places % (2 * size - 2)
    return np.minimum(places, 2 * size - 2 - places)


def _largest(sizes: NDArray[np.float64]) -> NDArray[np.int64]:
    """Parts in falling order, without those that together stay below what can be seen."""
    order = np.argsort(-sizes, kind="stable")
    rest = sizes[order][::-1].cumsum()[::-1]  # of each part and all smaller ones
    return order[: max(1, int((rest > _NEGLIGIBLE).sum()))]
