"""The two streams of a fit, from its inputs: decoded in memory, or read while it goes on."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from noisystudent_core.config.settings import FitConfig, InputNoise
from noisystudent_core.data.decoders import Decoders
from noisystudent_core.data.encoded import EncodedImages, LabelledParts, SelectedParts
from noisystudent_core.data.loader import PartStream
from noisystudent_core.data.order import Order
from noisystudent_core.data.resident import fits, load
from noisystudent_core.data.streams import ResidentStream, Share, Stream
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.events import Events, silent
from noisystudent_core.noise.input_noise import source_geometry
from noisystudent_core.storage.cache import PartCache, ReadPart
from noisystudent_core.storage.manifest import Artifact, Inputs

RESIDENT_SHARE = 0.5  # of the free memory that "auto" fills with images: the fit itself needs some


class Streams(NamedTuple):
    """What a fit reads."""

    labelled: Stream
    unlabelled: Stream | None
    num_labelled: int  # images that can be decoded, of which one pass is an epoch


@contextmanager
def open_streams(
    config: FitConfig, inputs: Inputs, share: Share, device: torch.device, events: Events = silent
) -> Iterator[Streams]:
    """The streams of {"labelled"} and, for a student, {"images", "selection", "predictions"}, while the block lasts.

    Images that are `selected_images` come without a selection.

    Raises `ConfigurationError` for inputs that are not those of `config.pseudo_labels`, and where the images are to be
    resident and do not fit.
    """
    _check(config, inputs)
    with ExitStack() as stack:
        opener = _Opener(config, share, device, events, stack)
        labelled = LabelledParts(inputs["labelled"], opener.read)
        labelled_stream = opener.open(labelled, labelled_order(config, labelled.part_sizes), config.noise)
        unlabelled_stream = None
        if config.pseudo_labels is not None:
            selected = SelectedParts(inputs["images"], inputs.get("selection"), inputs["predictions"], opener.read)
            order = unlabelled_order(config, selected.part_sizes, selected.copies)
            unlabelled_stream = opener.open(selected, order, config.pseudo_labels.noise or config.noise)
        yield Streams(labelled_stream, unlabelled_stream, sum(labelled.part_sizes))


def labelled_order(config: FitConfig, part_sizes: Sequence[int]) -> Order:
    """The order of the labelled images, from parts of so many each."""
    return Order(part_sizes, config.images_per_step[0], config.seed, window=config.train.shuffle_window)


def unlabelled_order(config: FitConfig, part_sizes: Sequence[int], copies: Tensor | None) -> Order:
    """The order of the pseudo-labelled images, each of `copies` [N] copies."""
    num_images, window = config.images_per_step[1], config.train.shuffle_window
    return Order(part_sizes, num_images, config.seed + 1, copies, window)


class _Opener:
    """Opens streams of one fit, which share the decoding processes and the cache."""

    def __init__(self, config: FitConfig, share: Share, device: torch.device, events: Events, stack: ExitStack) -> None:
        self._config, self._share, self._device, self._stack = config, share, device, stack
        self._events = events
        execution = config.execution
        self.read: ReadPart = Artifact.read
        if execution.cache_dir is not None:
            self.read = PartCache(execution.cache_dir, execution.cache_bytes, lambda text: events("message", text=text))
        self._decoders = cache(lambda: stack.enter_context(Decoders(_num_workers(config, share))))

    def open(self, source: EncodedImages, order: Order, noise: InputNoise) -> Stream:
        """Images as `noise` needs them, in memory or streamed, as `execution.data` says."""
        model, mode = self._config.model, self._config.execution.data
        size, crop_fraction = source_geometry(noise, model.resolution_px, model.crop_fraction)
        num_images = sum(source.part_sizes)
        if mode == "auto":
            sharers = self._share.world if self._device.type == "cpu" else 1  # a GPU is a process's own
            mode = "resident" if fits(num_images, size, self._device, RESIDENT_SHARE / sharers) else "streaming"
        if mode == "resident":
            return ResidentStream(*load(source, size, self._device, crop_fraction), order, self._share)
        self._events("message", text=f"{num_images} images of {size} px of {source.url} are streamed")
        decoders = self._decoders()
        stream = PartStream(source, order, self._share, decoders, size, crop_fraction, self._device)
        return self._stack.enter_context(closing(stream))


def _num_workers(config: FitConfig, share: Share) -> int:
    """Decoding processes of one process of the fit: as set, else its share of the cores."""
    if config.execution.num_workers is not None:
        return config.execution.num_workers
    num_cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, num_cores // share.world)


def _check(config: FitConfig, inputs: Inputs) -> None:
    given = {"images", "selection", "predictions"} & set(inputs)
    needed = set() if config.pseudo_labels is None else {"images", "selection", "predictions"}
    if config.pseudo_labels and "images" in given and _is_materialised(inputs["images"]):
        needed = {"images", "predictions"}
    if given != needed:
        raise ConfigurationError(
            f"fit is given {sorted(given)} and pseudo_labels={config.pseudo_labels}: a student needs images, "
            "selection (none for selected_images), predictions and pseudo_labels, a teacher none of them"
        )


def _is_materialised(url: str) -> bool:
    return Artifact.open(url).manifest.kind == "selected_images"
