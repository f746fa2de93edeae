"""The settings of images before a model sees them: where they are, how they become parts, what counts as a copy."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from noisystudent_core.config.settings import Fraction, PartSettings, Settings, StageSettings

Radius = Annotated[int, Field(ge=0, le=8)]  # bits in which two 64-bit hashes differ; unlike images: 12 to 50


class Sources(Settings):
    """Where the images are: files, folders, globs or URLs of any fsspec file system."""

    labelled: str | None = None
    unlabelled: str | None = None
    validation: str | None = None  # None: a stratified share of the labelled images
    test: str | None = None  # None: the table shows validation alone, and says so


class IngestConfig(StageSettings):
    """One file of a source, taken in as `images` parts of its own, so that a file added later changes no other part."""

    stage, kind, version = "ingest", "images", 1
    num_classes: Annotated[int, Field(ge=2)] | None = None  # None: unlabelled, labels are not read
    class_names: tuple[str, ...] | None = None  # a label that is a name counts by its place here
    images_per_part: Annotated[int, Field(ge=1)] = 10_000
    bytes_per_part: Annotated[int, Field(ge=1)] = 256_000_000  # of encoded images; a part ends at whichever comes first
    max_pixels: Annotated[int, Field(ge=1)] = 100_000_000  # an image's height x width
    shorter_side_px: Annotated[int, Field(ge=8)] | None = None  # larger images are shrunk to it and encoded again
    index_only: bool = False  # parts refer to the source's images (Parquet, tar) instead of holding them


class PrepareConfig(StageSettings):
    """A whole source: its files' parts, or one side of a stratified split of them."""

    stage, kind, version = "prepare", "images", 3
    ingest: IngestConfig = IngestConfig()
    # labels are read where ingest.num_classes is None, too: as many as the source names; "named": if it names any
    read_labels: bool | Literal["named"] = False
    max_bad_fraction: Annotated[float, Field(ge=0, le=1)] = 0.01  # of undecodable images
    # which side of a stratified split to keep; "unlabelled": what labelled_per_class leaves of the training side
    share: Literal["all", "training", "validation", "unlabelled"] = "all"
    validation_share: Fraction = 0.1  # of each class
    labelled_per_class: Annotated[int, Field(ge=1)] | None = None  # images of each class that stay labelled; None: all
    shuffle: bool = False  # by a seeded hash of image ids, across all parts
    seed: int = 0

    @model_validator(mode="after")
    def _sides_of_a_split(self) -> "PrepareConfig":
        if self.share == "all" and self.labelled_per_class is not None:
            raise ValueError(
                f'labelled_per_class={self.labelled_per_class} with share="all": take the sides of the split one by '
                'one, "training" and "unlabelled"'
            )
        if self.share == "unlabelled" and self.labelled_per_class is None:
            raise ValueError('share="unlabelled": without labelled_per_class nothing is left over; set it')
        return self

    @model_validator(mode="after")
    def _one_form(self) -> "PrepareConfig":
        ingest = self.ingest
        if ingest.index_only and ingest.shorter_side_px is not None:
            raise ValueError(
                f"index_only=True and shorter_side_px={ingest.shorter_side_px}: what is referred to is not shrunk; "
                "keep one of them"
            )
        return self


class DuplicatesConfig(Settings):
    """Which unlabelled images are left out as copies.

    Radii are of 64-bit hashes that have 32 bits set, so that their distances are even. Within 4 bits lie images
    compressed again, of another size, or slightly brightened; not crops of more than 1%, nor mirrored ones.
    """

    near_radius: Radius | None = 4  # bits from an evaluation image; None: only equal bytes are found
    # share of evaluation images that look alike among themselves: above it hashes tell such images too little apart
    max_look_alikes: Fraction = 0.02
    repeat_radius: Radius | None = None  # bits between unlabelled images, one of which is kept; None: all are


class FingerprintConfig(PartSettings):
    """The perceptual hash of every image, by which near copies are found."""

    stage, kind, version = "fingerprint", "fingerprints", 1


class ExclusionsConfig(StageSettings):
    """Evaluation images found in the unlabelled set (section 3.1), by image id and by hash; see `DuplicatesConfig`."""

    stage, kind, version = "exclusions", "exclusions", 2
    near_radius: Radius | None = None
    max_look_alikes: Fraction = 0.02
    repeat_radius: Radius | None = None


class InspectPartsConfig(PartSettings):
    """What an inspection keeps of every image: class, size, format, and the hash by which look-alikes are found."""

    stage, kind, version = "inspect_parts", "inspections", 1


class InspectConfig(StageSettings):
    """What is in sets of images: counts, repeats, and evaluation images among those for training."""

    stage, kind, version = "inspect", "inspected", 1
    near_radius: Radius | None = 4  # None: only equal bytes are compared
    max_look_alikes: Fraction = 0.02  # share of an evaluation set: above it a hash is no evidence of a copy
    max_near_images: Annotated[int, Field(ge=1)] = 5_000_000  # of a set that is compared; 160 bytes of memory each
    classes_shown: Annotated[int, Field(ge=1)] = 24  # in pictures: half of them the largest, half the smallest
    pictures_per_class: Annotated[int, Field(ge=1)] = 8
    seed: int = 0  # of the choice of pictures


class DataConfig(Settings):
    """How sources become image parts."""

    num_classes: Annotated[int, Field(ge=2)] = 1000
    class_names: tuple[str, ...] | None = None
    images_per_part: Annotated[int, Field(ge=1)] = 10_000
    max_bad_fraction: Annotated[float, Field(ge=0, le=1)] = 0.01
    max_missing: Annotated[float, Field(ge=0, le=1)] = 0.01  # of the images that a pass over the parts may not reach
    max_pixels: Annotated[int, Field(ge=1)] = 100_000_000
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.1  # used where there is no validation source
    duplicates: DuplicatesConfig = DuplicatesConfig()

    @model_validator(mode="after")
    def _a_name_per_class(self) -> "DataConfig":
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise ValueError(f"{len(self.class_names)} class_names: must be num_classes={self.num_classes} of them")
        return self
