"""What is measured of every model, on paper, as `tasks/evaluate.py` submits it."""

from dataclasses import dataclass, field

from noisystudent_core.config.evaluation import Adversarial, CorruptConfig, Corruptions, Perturbations
from noisystudent_core.config.settings import ModelConfig
from noisystudent_core.evaluation import corruptions, perturbations
from noisystudent_core.planning import probes
from noisystudent_core.planning.fits import Work, decoding
from noisystudent_core.planning.layout import Layout, Stage

FRAMES = 31  # of a perturbation sequence, about


@dataclass
class Measurements:
    """Adds the measurements of models; what is made of the reported images is made once a size."""

    layout: Layout
    _worse: dict[CorruptConfig, str] = field(default_factory=dict)

    def model(self, i: int, role: str, before: str, model: str, is_student: bool = True) -> None:
        """What is measured of a model: accuracy, and each suite before its resolution is fixed (section 3.4)."""
        learner = (self.layout.config.teacher, *self.layout.config.iterations)[i]
        fixed = self.layout.config.fix_resolution(i) if is_student else None
        shown = learner.model if fixed is None else fixed.model
        for split in dict.fromkeys(("validation", self.layout.reported) if is_student else (self.layout.reported,)):
            images = self.layout.sets[split]
            probe = probes.evaluate(shown, self.layout.config.data.num_classes, self.layout.config.batch_size)
            work = Work(probe, images.number, f"{images.number:,} images")
            self._evaluate(role, split, model, images.number, decoding(images, shown), work)
        for suite in self.layout.config.robustness.suites:
            self._suite(i, role, before, learner.model, suite)

    def _suite(
        self, i: int, role: str, model: str, net: ModelConfig, suite: Adversarial | Corruptions | Perturbations
    ) -> None:
        images, num_classes = self.layout.sets[self.layout.reported], self.layout.config.data.num_classes
        number = min(images.number, suite.num_images or images.number)
        what = f"{self.layout.reported}, {suite.kind}"
        if isinstance(suite, Adversarial):
            probe = probes.attack(net, num_classes, self.layout.config.batch_size, suite)
            self._evaluate(role, what, model, number, Work(probe, number, f"{number:,} images, all attacks"))
            return
        made = self._made(self.layout.config.corrupt(suite, i), number)
        kinds, frames = _kinds(suite)
        batch_size = self.layout.config.batch_size if frames == 1 else frames
        amount, reason = number * kinds * frames, f"{number:,} images x {kinds} kinds"
        reason += f" x {frames} frames" if frames > 1 else ""
        work = Work(probes.evaluate(net, num_classes, batch_size), amount, reason)
        self._evaluate(role, what, model, amount, work, after=made)

    def _evaluate(self, role: str, what: str, model: str, images: int, *work: Work, after: str = "") -> None:
        waits = (model, after or f"prepare {what.partition(',')[0]}")
        suite = what.rpartition(", ")[2]
        moved = f"robustness.{suite}.num_images" if ", " in what else ""
        self.layout.add(Stage(name=f"evaluate {role} on {what}", after=waits, work=work, images=images, moved_by=moved))

    def _made(self, config: CorruptConfig, number: int) -> str:
        """The stage that makes the images of a suite at a size, once for all nets of it."""
        if config not in self._worse:
            kinds, frames = _kinds(config.suite)
            name = f"{config.suite.kind} of {self.layout.reported}"
            name += f", {config.resolution_px} px" if name in self.layout.names() else ""
            images = number * kinds * frames
            work = Work(probes.worse(config.suite, config.resolution_px), number, f"{number:,} images x {kinds} kinds")
            self._worse[config] = self.layout.add(
                Stage(
                    name=name,
                    after=(f"prepare {self.layout.reported}",),
                    work=(work,),
                    images=images,
                    parts=kinds,
                    storage_bytes=images * 3.0 * config.resolution_px**2,
                    moved_by=f"robustness.{config.suite.kind}.num_images",
                )
            )
        return self._worse[config]


def _kinds(suite: Corruptions | Perturbations) -> tuple[int, int]:
    """Kinds of images that a suite makes of one, and frames of each."""
    if isinstance(suite, Perturbations):
        return len(perturbations.NAMES), FRAMES
    return len(corruptions.NAMES) * len(suite.severities), 1
