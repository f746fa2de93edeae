"""Where each class's images are cut off: its first so many, in an order of all images that nobody sorts.

The order is by a number per image, its key, ties by image id. For the choice of images the key falls with the
confidence, for copies it is a seeded hash. What lies around a class's cut is gathered, and the cut read off.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from noisystudent_core.pseudo_labels.histogram import Array, ConfidenceHistogram
from noisystudent_core.pseudo_labels.predicted import Rows, high_words, low_words

HASH_BITS = 32  # of a hash, that tell where an image stands roughly
LAST_KEY = np.uint64(2**32 - 1)  # of the least confidence above 0
LAST_WORD = np.uint64(2**64 - 1)  # of an id
SIGMAS = 6  # how far from where it is expected a cut is looked for first


@dataclass(frozen=True, eq=False)
class Cut:
    """The last image of each class that is within: key, and id as two words, uint64 [C]."""

    key_C: Array
    high_C: Array
    low_C: Array

    def holds(self, label: Array, key: Array, image_id: Array) -> Array:
        """Which images are within: bool [N], of labels int32, keys uint64 and ids V16 [N]."""
        last = self.key_C[label]
        within = key < last
        tied = np.flatnonzero(key == last)
        high, low, label = high_words(image_id[tied]), low_words(image_id[tied]), label[tied]
        last_high, last_low = self.high_C[label], self.low_C[label]
        within[tied] = (high < last_high) | ((high == last_high) & (low <= last_low))
        return within


@dataclass(frozen=True, eq=False)
class Around:
    """Images near the cuts: class int32, key uint64 and id V16, each [N]; and how many come before them, int64 [C]."""

    label: Array
    key: Array
    image_id: Array
    before_C: Array

    @classmethod
    def joined(cls, pieces: "Sequence[Around]") -> "Around":
        """What several buckets gave."""
        columns = (np.concatenate([getattr(p, name) for p in pieces]) for name in ("label", "key", "image_id"))
        return cls(*columns, before_C=np.sum([piece.before_C for piece in pieces], axis=0))

    def reaches(self, quota_C: Array) -> Array:
        """Which classes have their `quota_C`-th image here, bool [C]; true for a quota of 0."""
        there_C = self.before_C + np.bincount(self.label, minlength=len(quota_C))
        return (quota_C == 0) | ((self.before_C < quota_C) & (quota_C <= there_C))

    def cut(self, quota_C: Array) -> Cut:
        """The cut after `quota_C` images of each class, int64 [C], the last of which must be here; 0: key 0."""
        assert self.reaches(quota_C).all()
        label, key = self.label, self.key
        order = np.argsort(key)
        order = order[np.argsort(label[order], kind="stable")]
        key_C = _picked(key, order, label, quota_C - self.before_C, quota_C > 0)
        tied = np.flatnonzero(key == key_C[label])
        before_C = self.before_C + np.bincount(label[key < key_C[label]], minlength=len(quota_C))
        high, low = high_words(self.image_id[tied]), low_words(self.image_id[tied])
        by_id = np.lexsort((low, high, label[tied]))
        where = by_id, label[tied], quota_C - before_C, quota_C > 0
        return Cut(key_C, _picked(high, *where), _picked(low, *where))


@dataclass(frozen=True, eq=False)
class Choice:
    """How many images of each class are chosen, by falling confidence; the cut lies in one bin of the histogram."""

    quota_C: Array  # int64: how many of the bin's images are chosen
    all_C: Array  # bool: whether all of the class above the threshold are, whose bin is then of no interest
    lower_C: Array  # float32: the bin is above it,
    upper_C: Array  # and ends with this

    @classmethod
    def of(cls, histogram: ConfidenceHistogram, target_C: Array, threshold: float) -> "Choice":
        """The choice of at most `target_C` images, int64 [C], above the threshold."""
        boundary_C, quota_C = histogram.boundary(target_C, threshold)
        ends = np.concatenate([[-np.inf], histogram.edges, [np.inf]]).astype(np.float32)
        return cls(quota_C, boundary_C < histogram.bin_above(threshold), ends[boundary_C], ends[boundary_C + 1])

    def gather(self, rows: Rows) -> Around:
        """The rows that lie in their class's bin, where it is cut."""
        label, confidence = rows.label, rows.confidence
        found = np.flatnonzero((confidence > self.lower_C[label]) & (confidence <= self.upper_C[label]))
        found = found[self.quota_C[label[found]] > 0]
        none_before_C = np.zeros_like(self.quota_C)
        return Around(label[found], falling(confidence[found]), rows.image_id[found], none_before_C)

    def cut(self, around: Around) -> Cut:
        """The last chosen image of each class."""
        cut = around.cut(self.quota_C)
        last = LAST_KEY, LAST_WORD, LAST_WORD
        columns = cut.key_C, cut.high_C, cut.low_C
        return Cut(*(np.where(self.all_C, most, column) for most, column in zip(last, columns, strict=True)))


@dataclass(frozen=True, eq=False)
class Lots:
    """How many images of each class have one copy more, by rising hash; a hash's leading bits tell where to look.

    A class of n images and k winners has its cut near the share k/n of all hashes, which are as good as random: a
    window of `SIGMAS` standard deviations about it holds the cut, or else, if chance will have it, all hashes do.
    """

    num_winners_C: Array  # int64
    first_C: Array  # int64: the window's first value of the leading bits
    last_C: Array
    seed: int

    @classmethod
    def of(cls, num_winners_C: Array, num_images_C: Array, seed: int, sigmas: float = SIGMAS) -> "Lots":
        """The windows for so many winners among so many images, int64 [C]."""
        inverse_C = 1 / np.maximum(num_images_C, 1)
        share_C = num_winners_C * inverse_C
        reach_C = sigmas * (np.sqrt(share_C * (1 - share_C) * inverse_C) + inverse_C)
        first_C, last_C = (np.clip(share_C + sign * reach_C, 0, 1) * 2**HASH_BITS for sign in (-1, 1))
        return cls(num_winners_C, first_C.astype(np.int64), last_C.astype(np.int64), seed)

    def wider(self) -> "Lots":
        """All hashes."""
        whole_C = np.full_like(self.first_C, 2**HASH_BITS)
        return replace(self, first_C=np.zeros_like(whole_C), last_C=whole_C)

    def gather(self, rows: Rows) -> Around:
        """The rows whose hash lies in their class's window, and how many lie before it."""
        drawn = np.flatnonzero((self.num_winners_C > 0)[rows.label] & (rows.confidence > 0))
        label, image_id = rows.label[drawn], rows.image_id[drawn]
        key = seeded_hash(image_id, self.seed)
        leading = (key >> np.uint64(64 - HASH_BITS)).astype(np.int64)
        before_C = np.bincount(label[leading < self.first_C[label]], minlength=len(self.first_C))
        inside = (leading >= self.first_C[label]) & (leading <= self.last_C[label])
        return Around(label[inside], key[inside], image_id[inside], before_C)


@dataclass(frozen=True, eq=False)
class Copies:
    """How often a chosen image is seen: its class's target shared out evenly, the remainder to those that won."""

    each_C: Array  # int64
    lots: Lots
    cut: Cut
    limit: int | None

    def of(self, label: Array, image_id: Array) -> Array:
        """Copies int32 [N] of chosen images, of labels int32 and ids V16 [N]."""
        copies = self.each_C[label]
        drawn = np.flatnonzero((self.lots.num_winners_C > 0)[label])
        key = seeded_hash(image_id[drawn], self.lots.seed)
        copies[drawn] += self.cut.holds(label[drawn], key, image_id[drawn])
        return (copies if self.limit is None else np.minimum(copies, self.limit)).astype(np.int32)


def _picked(values: Array, order: Array, label: Array, place_C: Array, some_C: Array) -> Array:
    """Of values uint64 [N], in an order by class, the `place_C`-th of each class from 1 on; 0 where not `some_C`."""
    starts_C = np.searchsorted(label[order], np.arange(len(place_C)))
    picked_C = np.zeros(len(place_C), np.uint64)
    picked_C[some_C] = values[order[(starts_C + place_C)[some_C] - 1]]
    return picked_C


def falling(confidence: Array) -> Array:
    """Keys uint64 that fall as confidences, float32 above 0, rise; none is 0."""
    return np.uint64(2**32) - confidence.view(np.uint32)


def seeded_hash(image_id: Array, seed: int) -> Array:
    """64 bits that look random, from image ids V16 [N] and a seed (SplitMix64's mixing, thrice); uint64 [N]."""
    mixed = _mix(np.array([seed % 2**64], np.uint64))
    return _mix(_mix(mixed ^ high_words(image_id)) ^ low_words(image_id))


def order_by_id(image_id: Array, shared_bits: int) -> tuple[Array, Array]:
    """The order of ids V16 [N] that share leading bits, int64 [N], and those places in it whose ids may be equal.

    Numbers are sorted that have an id's next bits above the row's number: in a quarter of the time of an argsort.
    """
    high = high_words(image_id)
    number_bits = max(len(high) - 1, 0).bit_length()
    mask = np.uint64(2**number_bits - 1)
    keys = ((high << np.uint64(shared_bits)) & ~mask) | np.arange(len(high), dtype=np.uint64)
    keys = pl.Series(keys).sort(multithreaded=False).to_numpy()
    same = np.zeros(len(keys) + 1, bool)
    same[1:-1] = (keys[1:] ^ keys[:-1]) <= mask
    tied = np.flatnonzero(same[1:] | same[:-1])
    order = (keys & mask).astype(np.int64)
    rows = order[tied]
    order[tied] = rows[np.lexsort((low_words(image_id[rows]), high[rows]))]
    return order, tied


def _mix(words: Array) -> Array:
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
