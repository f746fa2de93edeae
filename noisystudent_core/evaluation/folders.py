"""Folders of released benchmarks, on any fsspec file system: images and sequences below folders of their classes."""

import posixpath
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from noisystudent_core.data.image_files import NUM_THREADS
from noisystudent_core.data.images import centre_crop_resize, decode_image
from noisystudent_core.errors import ImageError, LabelError, SourceError
from noisystudent_core.evaluation.videos import VIDEO_SUFFIX, check_decoder, decode_video
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.trees import files_below, listing_digest, some

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")
MIN_FRAMES = 2  # of a sequence: less cannot flip

Loaded = TypeVar("Loaded")


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """Images of `<class>/<image>`, in name order."""

    folder: Folder
    names: tuple[str, ...]  # below the folder
    labels: Tensor  # int64 [N], or sets of labels bool [N, C]
    digest: str  # of the listing: names, sizes, etags or times of change

    def __len__(self) -> int:
        return len(self.names)

    def batches(
        self, size: int, crop_fraction: float, batch_size: int, num_threads: int = NUM_THREADS
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (uint8 [B, 3, size, size], labels [B] or [B, C]), the next batch being read meanwhile.

        `crop_fraction` as in `centre_crop_resize`; 1 for images that are cut already, as those of ImageNet-C are.
        Raises `SourceError` for an image that cannot be decoded: a benchmark counts all of its images.
        """
        rows = _ahead(lambda name: _image(self.folder, name, size, crop_fraction), self.names, batch_size, num_threads)
        for images, labels in zip(rows, self.labels.split(batch_size), strict=True):
            yield torch.stack(images), labels


@dataclass(frozen=True, kw_only=True)
class SequenceFolder:
    """Sequences of `<class>/<video>.mp4`, or `<class>/<video>/<frame>` with images for frames, in name order."""

    folder: Folder
    frames: Mapping[str, tuple[str, ...]]  # by the sequence's name: its file, or frames in their order
    labels: Tensor  # int64 [N]
    digest: str

    def __len__(self) -> int:
        return len(self.frames)

    def sequences(self, size: int, num_threads: int = NUM_THREADS) -> Iterator[tuple[Tensor, int]]:
        """Yield (uint8 [T, 3, size, size], label), the next sequences being read meanwhile.

        Raises `SourceError` for a file that cannot be decoded, and for a sequence of fewer than two frames.
        """
        rows = _ahead(
            lambda name: _sequence(self.folder, name, self.frames[name], size), tuple(self.frames), 1, num_threads
        )
        for (frames,), label in zip(rows, self.labels.tolist(), strict=True):
            yield frames, label


def image_folder(url: str, class_names: Sequence[str], expected: Sequence[str] | None = None) -> ImageFolder:
    """List `<class>/<image>` at `url`; a label is the place of the class (its wnid) in `class_names`, the net's.

    There must be images of each of the `expected` classes (None: of all), and of no other; files whose names begin with
    a dot are passed over. Raises `SourceError` for a folder that is missing or empty, and for files that are no images
    of a class; `LabelError` for classes that are missing or other ones.
    """
    folder = Folder.at(url)
    found = files_below(folder.url)
    _refuse_odd(folder, [name for name in found if name.count("/") != 1 or not _is_image(name)], "<class>/<image>")
    names = tuple(sorted(found))
    labels = _labels(folder, [name.partition("/")[0] for name in names], class_names, expected)
    return ImageFolder(folder=folder, names=names, labels=labels, digest=listing_digest(found))


def sequence_folder(url: str, class_names: Sequence[str], expected: Sequence[str] | None = None) -> SequenceFolder:
    """List `<class>/<video>.mp4` or `<class>/<video>/<frame>` at `url`; otherwise as `image_folder`.

    Raises `ConfigurationError` where there are videos, and no library to decode them.
    """
    folder = Folder.at(url)
    found = files_below(folder.url)
    odd = [name for name in found if not _is_video(name) and not (name.count("/") == 2 and _is_image(name))]
    _refuse_odd(folder, odd, f"<class>/<video>{VIDEO_SUFFIX} or <class>/<video>/<frame>")
    if any(map(_is_video, found)):
        check_decoder(folder.url)
    frames: dict[str, tuple[str, ...]] = {}
    for name in sorted(found, key=_by_number):
        sequence = name if _is_video(name) else posixpath.dirname(name)
        frames[sequence] = (*frames.get(sequence, ()), name)
    frames = dict(sorted(frames.items()))
    labels = _labels(folder, [name.partition("/")[0] for name in frames], class_names, expected)
    return SequenceFolder(folder=folder, frames=frames, labels=labels, digest=listing_digest(found))


def folders_in(folder: Folder) -> list[str]:
    """Names of the folders directly inside; raises `SourceError` where it cannot be listed."""
    folder.fs.invalidate_cache()
    try:
        entries = folder.fs.ls(folder.path, detail=True)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise SourceError(f"{folder.url}: cannot be listed ({error}); give the folder of a benchmark") from None
    names = [posixpath.basename(entry["name"].rstrip("/")) for entry in entries if entry["type"] == "directory"]
    return sorted(name for name in names if not name.startswith("."))


def _refuse_odd(folder: Folder, odd: list[str], layout: str) -> None:
    if odd:
        raise SourceError(
            f"{folder.url}: {some(sorted(odd))}: must be {layout}, images being {', '.join(IMAGE_SUFFIXES)}; "
            "unpack the benchmark as it was released, and move other files away"
        )


def _labels(folder: Folder, classes: list[str], class_names: Sequence[str], expected: Sequence[str] | None) -> Tensor:
    """The label of every image or sequence; each expected class has one, and no other has."""
    expected = class_names if expected is None else expected
    if absent := sorted(set(expected).difference(class_names)):
        raise LabelError(
            f"{folder.url}: the net's {len(class_names)} classes lack {len(absent)} of the benchmark's {len(expected)} "
            f"({some(absent)}); give a model of them, and its classes under the benchmark's names (class_names)"
        )
    found = set(classes)
    if unknown := sorted(found.difference(expected)):
        raise LabelError(
            f"{folder.url}: {len(unknown)} of {len(found)} classes are other ones ({some(unknown)}); must be the "
            f"{len(expected)} classes {some(expected)}; give a model of the folder's classes, or say by class_names "
            "what its classes are called here"
        )
    if missing := [name for name in expected if name not in found]:
        raise LabelError(
            f"{folder.url}: no image of {len(missing)} of {len(expected)} classes ({some(missing)}); unpack the whole "
            "benchmark, its number is a mean over all of them"
        )
    places = {name: place for place, name in enumerate(class_names)}
    return torch.tensor([places[name] for name in classes])


def _ahead(
    load: Callable[[str], Loaded], names: Sequence[str], batch_size: int, num_threads: int
) -> Iterator[list[Loaded]]:
    """What is loaded by the names, in batches; so many threads work on later ones meanwhile."""
    lead = max(1, num_threads // batch_size)  # batches, so that small ones keep all threads busy
    pool = ThreadPoolExecutor(num_threads)
    waiting: deque[list[Future[Loaded]]] = deque()
    try:
        for start in range(0, len(names), batch_size):
            waiting.append([pool.submit(load, name) for name in names[start : start + batch_size]])
            if len(waiting) > lead:
                yield [future.result() for future in waiting.popleft()]
        for futures in waiting:
            yield [future.result() for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)


def _image(folder: Folder, name: str, size: int, crop_fraction: float) -> Tensor:
    try:
        return centre_crop_resize(decode_image(folder.read(name)), size, crop_fraction)
    except ImageError as error:
        raise SourceError(
            f"{folder.url}/{name}: {error.reason} ({error}); a benchmark counts all of its images: copy it again"
        ) from None


def _sequence(folder: Folder, name: str, files: Sequence[str], size: int) -> Tensor:
    if _is_video(name):
        frames = [centre_crop_resize(frame, size) for frame in decode_video(folder.read(name), f"{folder.url}/{name}")]
    else:
        frames = [_image(folder, file, size, 1.0) for file in files]
    if len(frames) < MIN_FRAMES:
        raise SourceError(f"{folder.url}/{name}: {len(frames)} frames: must be at least {MIN_FRAMES}; copy it again")
    return torch.stack(frames)


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def _is_video(name: str) -> bool:
    return name.count("/") == 1 and name.lower().endswith(VIDEO_SUFFIX)


def _by_number(name: str) -> list[tuple[int, str]]:
    """A key that puts img10 behind img9."""
    return [(int(word), "") if word.isdigit() else (-1, word) for word in re.split(r"(\d+)", name)]
