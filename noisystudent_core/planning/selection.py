"""From unlabelled images to those that students learn from, on paper: copies, labels, the selection itself."""

from noisystudent_core.config.run import LearnerConfig
from noisystudent_core.config.shares import num_groups
from noisystudent_core.planning import probes
from noisystudent_core.planning.counts import Images
from noisystudent_core.planning.fits import Work
from noisystudent_core.planning.layout import Layout, Stage
from noisystudent_core.planning.models import first_model

LABEL_BYTES, HASH_BYTES, SELECTION_BYTES = 24, 24, 36  # a row in Parquet: id and numbers
SELECTED_PER_S = 1e7  # rows that selection reads a second on two cores (benchmarks/results/selection.md)
STORED_PER_S = 200e6  # bytes a second, assumed of a root's file system where a stage only moves images


def label_by_teacher(layout: Layout, i: int, after: tuple[str, ...]) -> str:
    """Add the pass in which the teacher of student `i` labels the selected images."""
    return _label(layout, f"teacher {i}", layout.config.teacher_of(i), layout.selected, after)


def _label(layout: Layout, role: str, learner: LearnerConfig, images: Images, after: tuple[str, ...]) -> str:
    is_teacher = role.startswith("teacher")
    config, fix = layout.config, learner.fix_resolution
    size = {} if fix is None else {"resolution_px": fix.resolution_px, "crop_fraction": fix.crop_fraction}
    model, num_classes = learner.model.model_copy(update=size), config.data.num_classes
    probe = probes.label(model, num_classes, config.batch_size, probes.rounded(images.bytes_each))
    parts = 1 if role.endswith("validation") else layout.num_parts()
    row_bytes = LABEL_BYTES + (2 * num_classes if is_teacher else 0)  # float16 distributions
    return layout.add(
        Stage(
            name=f"label by {role}",
            after=after,
            work=(Work(probe, images.number, f"{images.number:,} images", is_shared=True),),
            images=images.number,
            parts=parts,
            groups=min(parts, num_groups(parts, layout.machine.num_devices)),
            storage_bytes=float(row_bytes * images.number),
            moved_by="selection.num_images_per_class or selection.fraction"
            if is_teacher
            else "a smaller selector.model, fewer unlabelled images",
        )
    )


def select(layout: Layout, teacher: str) -> tuple[str, ...]:
    """From exclusions to the images that students learn from; names of the last stages."""
    config, unlabelled, validation = layout.config, layout.sets["unlabelled"], layout.sets["validation"]
    excluded = _exclusions(layout)
    learner, selector, own = config.teacher, teacher, config.fit_selector()
    if config.selector != "teacher" and own is not None:
        learner = config.selector
        selector = first_model(layout, "selector", learner, own)
    labels = [
        _label(layout, "selector", learner, unlabelled, (selector, "prepare unlabelled")),
        _label(layout, "selector, validation", learner, validation, (selector, "prepare validation")),
    ]
    rows = unlabelled.number
    selection = layout.add(
        Stage(
            name="select",
            after=(*labels, excluded),
            images=rows,
            fixed_s=rows / SELECTED_PER_S,
            fixed_for=f"{rows:,} rows / {SELECTED_PER_S:,.0f} a second",
            storage_bytes=float(SELECTION_BYTES * layout.selected.number),
        )
    )
    if (settings := config.materialise()) is None:
        return (selection,)
    num_bytes = layout.selected.num_bytes
    moved = Stage(
        name="materialise",
        after=(selection,),
        images=layout.selected.number,
        parts=-(-layout.selected.number // settings.images_per_part),
        storage_bytes=num_bytes,
        fixed_s=2 * num_bytes / STORED_PER_S,
        fixed_for=f"2 x {num_bytes / 1e9:,.1f} GB / {STORED_PER_S / 1e6:.0f} MB a second, assumed",
        moved_by="selection.num_images_per_class",
    )
    return (layout.add(moved),)


def _exclusions(layout: Layout) -> str:
    unlabelled, hashed = layout.sets["unlabelled"], []
    evaluation = sum(layout.sets[split].number for split in ("validation", "test") if split in layout.sets)
    if layout.config.fingerprint() is not None:
        probe = probes.of_images("fingerprint", probes.rounded(unlabelled.bytes_each))
        parts, number = layout.num_parts(), unlabelled.number
        hashed.append(Work(probe, evaluation, f"{evaluation:,} evaluation images"))
        layout.add(
            Stage(
                name="fingerprint unlabelled",
                after=("prepare unlabelled",),
                work=(Work(probe, number, f"{number:,} images", is_shared=True),),
                images=number,
                parts=parts,
                groups=min(parts, num_groups(parts, layout.machine.num_devices)),
                storage_bytes=float(HASH_BYTES * number),
                moved_by="data.duplicates.near_radius=null, which finds equal bytes alone",
            )
        )
    after = tuple(name for name in layout.names() if name.startswith(("prepare", "fingerprint")))
    seconds, reason = unlabelled.number / SELECTED_PER_S, f"{unlabelled.number:,} rows / {SELECTED_PER_S:,.0f}"
    return layout.add(
        Stage(
            name="exclusions",
            after=after,
            work=tuple(hashed),
            images=unlabelled.number + evaluation,
            fixed_s=seconds,
            fixed_for=reason,
        )
    )
