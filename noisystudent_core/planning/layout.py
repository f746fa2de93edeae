"""What the stages of a run are laid out from, and what each of them is."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from noisystudent_core.config.run import NoisyStudentConfig
from noisystudent_core.planning.counts import Images
from noisystudent_core.planning.fits import Machine, Nets, Work
from noisystudent_core.pseudo_labels.select import targets


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One task of a run, or one pass of tasks over parts; `name` is that of its task run."""

    name: str
    after: tuple[str, ...] = ()
    work: tuple[Work, ...] = ()
    images: int = 0  # that it handles, copies and repetitions counted
    parts: int = 0
    groups: int = 0  # task runs over parts, each on a device of its own
    processes: int = 1  # of a fit, a device each
    storage_bytes: float = 0.0
    memory_bytes: float = 0.0  # of a device, for a fit
    fixed_s: float = 0.0  # besides the work, and what for
    fixed_for: str = ""
    overlaps: bool = False  # a part of the work goes on during the rest
    note: str = ""  # what does not go as it is set
    moved_by: str = ""  # the settings that change what it costs


@dataclass
class Layout:
    """The stages of one run so far: `sources` are the images of each split's source, `machine` what they run on."""

    config: NoisyStudentConfig
    sources: Mapping[str, Images]
    machine: Machine
    nets: Nets
    stages: list[Stage] = field(default_factory=list)

    @property
    def sets(self) -> dict[str, Images]:
        """The images of each split as the run has them: where validation has no source, a share of the labelled."""
        if "validation" in self.sources:
            return dict(self.sources)
        share, labelled = self.config.data.validation_share, self.sources["labelled"]
        return {**self.sources, "labelled": labelled.share(1 - share), "validation": labelled.share(share)}

    @property
    def reported(self) -> str:
        """The images whose numbers the table shows."""
        return "test" if "test" in self.sources else "validation"

    @property
    def selected(self) -> Images:
        """The selected images, each once: as many as the targets ask for, were all confident and classes even."""
        settings, num_classes = self.config.select(), self.config.data.num_classes
        unlabelled = self.sets["unlabelled"]
        above_C = _evenly(round(unlabelled.number * settings.fraction), num_classes)
        labelled_C = _evenly(self.sets["labelled"].number, num_classes)
        target_C = targets(settings, above_C, dict(enumerate(labelled_C.tolist())))
        return unlabelled.share(int(np.minimum(above_C, target_C).sum()) / max(1, unlabelled.number))

    def num_parts(self) -> int:
        """Parts of the unlabelled images."""
        settings = self.config.prepare("unlabelled").ingest
        return self.sets["unlabelled"].num_parts(settings.images_per_part, settings.bytes_per_part)

    def add(self, stage: Stage) -> str:
        """Put a stage behind the others; returns its name."""
        self.stages.append(stage)
        return stage.name

    def names(self) -> tuple[str, ...]:
        """Names of the stages."""
        return tuple(stage.name for stage in self.stages)


def _evenly(number: int, num_classes: int) -> np.ndarray:
    """So many images over the classes, int64 [C]."""
    return number // num_classes + (np.arange(num_classes) < number % num_classes)
