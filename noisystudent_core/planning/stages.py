"""The stages of a run as `flows/noisy_student.py` submits them: Algorithm 1 on paper."""

from collections.abc import Mapping

from noisystudent_core.config.run import NoisyStudentConfig
from noisystudent_core.planning import models, probes, selection
from noisystudent_core.planning.counts import Images
from noisystudent_core.planning.fits import Machine, Nets, Work
from noisystudent_core.planning.layout import Layout, Stage
from noisystudent_core.planning.measurements import Measurements

REPORT_S = 3.0  # drawing the page's figures


def lay_out(config: NoisyStudentConfig, sources: Mapping[str, Images], machine: Machine, nets: Nets) -> list[Stage]:
    """Every stage of a run with what it has to do, each after those that it waits for."""
    layout = Layout(config, sources, machine, nets)
    measurements = Measurements(layout)
    for split in sorted(layout.sets, key=lambda split: split == "labelled"):
        _prepare(layout, split)
    before = models.first_model(layout, "teacher", config.teacher, config.fit_teacher())
    baselines = models.baselines(layout)
    teacher = models.at_larger_resolution(layout, 0, "teacher", before)
    measurements.model(0, "teacher", before, teacher)
    selected = selection.select(layout, teacher)
    for i in config.student_iterations:
        pseudo = selection.label_by_teacher(layout, i, (teacher, *selected))
        before = models.student(layout, i, pseudo)
        teacher = models.at_larger_resolution(layout, i, f"student {i}", before)
        measurements.model(i, f"student {i}", before, teacher)
        if i in baselines:
            measurements.model(i, f"baseline {i}", baselines[i], baselines[i], is_student=False)
    layout.add(Stage(name="report", after=layout.names(), fixed_s=REPORT_S, fixed_for="figures and the page"))
    return layout.stages


def _prepare(layout: Layout, split: str) -> None:
    settings = layout.config.prepare(split).ingest
    images = layout.sets[split]
    shared = split == "validation" and split not in layout.sources  # taken in with the labelled images
    source = layout.sources.get(split, images)
    probe = probes.of_images("ingest", probes.rounded(source.bytes_each))
    evaluation = tuple(f"prepare {other}" for other in layout.sets if other in ("validation", "test"))
    layout.add(
        Stage(
            name=f"prepare {split}",
            after=evaluation if split == "labelled" else (),
            work=() if shared or source.is_prepared else (Work(probe, source.number, f"{source.number:,} images"),),
            images=images.number,
            parts=images.num_parts(settings.images_per_part, settings.bytes_per_part),
            storage_bytes=images.num_bytes,
            moved_by="index-only preparation, which stores no images",
        )
    )
