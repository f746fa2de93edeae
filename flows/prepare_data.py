"""Your images as image parts, and what is in them, as a flow."""

from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from flows.noisy_student import THREADS
from flows.parameters import AtLeastOne, EngineName, Url
from noisystudent_core.config.preparations import preparations
from noisystudent_core.storage.prepared import classes_of as names_of
from noisystudent_core.storage.prepared import inspection_root
from noisystudent_core.storage.sources import source_digest
from tasks.hooks import INTERRUPTION, numbered
from tasks.inspection import inspect_all
from tasks.prepare import prepare_sides
from tasks.session import checked_root, tracked

ShareBelowOne = Annotated[float, Field(json_schema_extra={"minimum": 0, "exclusiveMaximum": 1})]


@flow(name="prepare-data", flow_run_name=numbered("{out}"), task_runner=THREADS, **INTERRUPTION)
def prepare_data(
    sources: list[Url],
    out: Url,
    labelled: bool = False,
    num_classes: AtLeastOne | None = None,
    class_names: list[str] | None = None,
    classes_of: Url | None = None,
    labelled_per_class: AtLeastOne | None = None,
    validation_share: ShareBelowOne = 0.0,
    shuffle: bool = False,
    seed: int = 0,
    images_per_part: AtLeastOne = 10_000,
    bytes_per_part: AtLeastOne = 256_000_000,
    shorter_side_px: AtLeastOne | None = None,
    index_only: bool = False,
    max_bad_fraction: ShareBelowOne = 0.01,
    engine: EngineName = "local",
) -> dict[str, Any]:
    """Take in images whole, or as the sides of a split; returns the URL of each set, ready for the flow noisy-student.

    Args:
        sources: Folders with a folder of images for each class, tars, Parquet with images, tables of addresses, IDX
            files, torchvision:NAME?root=FOLDER&split=train, or prepared artifacts; globs too.
        out: Where the images go, a folder or s3:// URL; of a split, its sides: labelled, validation, unlabelled.
        labelled: Whether labels are read, of as many classes as are named; so they are for a split.
        num_classes: Labels are numbers below it.
        class_names: Names of the classes in order, for labels that are names.
        classes_of: A prepared artifact whose class names count here.
        labelled_per_class: Labels that are kept of each class; the rest is unlabelled.
        validation_share: Share of each class that is put aside for validation.
        shuffle: Whether images are shuffled across all parts.
        seed: Decides over split and order.
        images_per_part: Images of a part, at most.
        bytes_per_part: Bytes of encoded images of a part, at most.
        shorter_side_px: Larger images are shrunk to it and encoded again.
        index_only: Whether parts refer to the source's images (Parquet, tar) instead of holding them.
        max_bad_fraction: Share of the images that may be undecodable.
        engine: Where stages run: "local", this machine, or "ray", a Ray cluster.
    """
    given = {**locals(), "class_names": class_names or names_of(classes_of)}
    configs, source = preparations(given, labelled=labelled), "\n".join(sources)
    settings = {name or "images": config.model_dump(mode="json") for name, config in configs.items()}
    identity, root = [settings, source_digest(source), out], checked_root(inspection_root(out))
    with tracked(root, engine, name=f"prepare {out}", identity=identity, params=settings, tags={}) as run:
        sides = prepare_sides(configs, source, out, run)
        inspect_all(sides, out, run).result()
        return {name: url.result() for name, url in sides.items()}
