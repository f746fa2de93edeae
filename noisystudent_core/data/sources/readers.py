"""Which reader goes with a file."""

from collections.abc import Iterator

from noisystudent_core.data.sources import folders, idx, manifests, parquet, tars, torchvision_sets
from noisystudent_core.data.sources.samples import Label, Samples
from noisystudent_core.errors import SourceError
from noisystudent_core.storage.sources import SourceFile


def read(file: SourceFile, *, with_labels: bool) -> Samples:
    """The images of one file, or one folder, in its own order; labels, where wanted, as the source has them."""
    match file.kind:
        case "parquet" if parquet.has_addresses(file):
            return manifests.read(file, with_labels=with_labels)
        case "parquet":
            return parquet.read(file, with_labels=with_labels)
        case "csv":
            return manifests.read(file, with_labels=with_labels)
        case "tar":
            return tars.read(file, with_labels=with_labels)
        case "idx":
            return idx.read(file, with_labels=with_labels)
        case "folder":
            return folders.read(file, with_labels=with_labels)
        case "torchvision":
            return torchvision_sets.read(file, with_labels=with_labels)
    raise SourceError(
        f"{file.path}: a single image is no source; give its folder, or the folder above it for one folder a class"
    )


def own_names(file: SourceFile) -> tuple[str, ...] | None:
    """The file's own list of class names, in the order of its labels; None where it has none."""
    if file.kind == "parquet":
        return parquet.class_names(file)
    return torchvision_sets.class_names(file) if file.kind == "torchvision" else None


def labels(file: SourceFile) -> Iterator[Label]:
    """The labels of a file that may name classes, without its images; nothing where they are numbers."""
    match file.kind:
        case "folder":
            return iter([folders.class_name(file)])
        case "tar":
            return tars.labels(file)
        case "parquet" if not parquet.has_addresses(file):
            return parquet.labels(file)
        case "parquet" | "csv":
            return manifests.labels(file)
    return iter(())
