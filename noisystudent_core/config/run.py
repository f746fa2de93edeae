"""The complete configuration of a run of Algorithm 1, and the stage settings that follow from it."""

import hashlib
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from noisystudent_core.config.data import (
    DataConfig,
    ExclusionsConfig,
    FingerprintConfig,
    IngestConfig,
    PrepareConfig,
    Sources,
)
from noisystudent_core.config.evaluation import (
    CorruptConfig,
    Corruptions,
    EvaluateConfig,
    Perturbations,
    RobustnessConfig,
    Suite,
)
from noisystudent_core.config.learners import IterationConfig, LearnerConfig
from noisystudent_core.config.settings import (
    Balance,
    ExecutionConfig,
    FitConfig,
    FixResolutionConfig,
    Fraction,
    InputNoise,
    MaterialiseConfig,
    PredictConfig,
    PseudoLabelConfig,
    SelectConfig,
    Settings,
    Share,
    TeacherNoise,
)

SPLITS = ("labelled", "unlabelled", "validation", "test")


class SelectionConfig(Settings):
    """Filtering and balancing (section 2, "Other Techniques"); see `SelectConfig`."""

    threshold: Fraction = 0.3
    max_confidence: Share = 1.0  # with the threshold, a band
    fraction: Share = 1.0  # of all unlabelled images, drawn at random
    materialise: bool = False  # write the selected images with their bytes, shuffled: where they are a small share
    num_images_per_class: Annotated[int, Field(ge=1)] = 130_000
    balance: Balance = "uniform"
    max_copies: Annotated[int, Field(ge=1)] | None = None


class PublicationConfig(Settings):
    """How the last student stands in the registry."""

    license: Annotated[str, Field(min_length=1)] = "not stated"  # of the weights, for the model card
    # on the validation images; alias `champion` moves to a student that is better by it only
    champion_metric: Literal["top1", "top5", "macro_f1"] = "top1"


class DebugConfig(Settings):
    """Checks of a set-up, for the first minutes with a new data set or net."""

    overfit_one_batch: bool = False  # every fit sees its first batch again and again: the loss must fall to its floor


class NoisyStudentConfig(Settings):
    """Algorithm 1, complete: teacher, selector, selection, students, and what is measured."""

    name: str
    seed: int = 0
    sources: Sources = Sources()
    data: DataConfig = DataConfig()
    teacher: LearnerConfig = LearnerConfig()
    selector: Literal["teacher"] | LearnerConfig = "teacher"
    selection: SelectionConfig = SelectionConfig()
    iterations: Annotated[tuple[IterationConfig, ...], Field(min_length=1)]
    noised_teacher: bool = False  # teachers label the selection with their own noise on (an ablation, table 6)
    baselines: bool = True  # each student's net fitted on the labelled images alone
    allow_smaller_student: bool = False
    batch_size: Annotated[int, Field(ge=1)] = 256  # images at a time in labelling and evaluation
    execution: ExecutionConfig = ExecutionConfig()  # of every fit
    robustness: RobustnessConfig = RobustnessConfig()  # beside accuracy; nothing unless it is set
    publication: PublicationConfig = PublicationConfig()
    debug: DebugConfig = DebugConfig()

    @model_validator(mode="after")
    def _mapping_names_classes(self) -> "NoisyStudentConfig":
        wrong = [c for c in _mapping(self.selection.balance) if not 0 <= c < self.data.num_classes]
        if wrong:
            raise ValueError(f"balance names class {wrong[0]}: classes are 0 to {self.data.num_classes - 1}")
        return self

    @model_validator(mode="after")
    def _fits_without_contradiction(self) -> "NoisyStudentConfig":
        try:
            self.fits()
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
        return self

    @property
    def student_iterations(self) -> range:
        """Numbers of the students; the first teacher is iteration 0."""
        return range(1, len(self.iterations) + 1)

    @property
    def baseline_iterations(self) -> range:
        """Numbers of the students whose supervised baseline is fitted."""
        return self.student_iterations if self.baselines else range(0)

    def prepare(self, split: str) -> PrepareConfig:
        """Settings that take in one of `SPLITS`; without a validation source the labelled one is divided."""
        divided = self.sources.validation is None
        sides: dict[str, Literal["training", "validation"]] = {"labelled": "training", "validation": "validation"}
        return PrepareConfig(
            ingest=IngestConfig(
                num_classes=None if split == "unlabelled" else self.data.num_classes,
                class_names=None if split == "unlabelled" else self.data.class_names,
                images_per_part=self.data.images_per_part,
                max_pixels=self.data.max_pixels,
            ),
            max_bad_fraction=self.data.max_bad_fraction,
            share=sides.get(split, "all") if divided else "all",
            validation_share=self.data.validation_share if divided else 0.0,
            seed=self.seed if divided else 0,
        )

    def source(self, split: str) -> str | None:
        """The URL that one of `SPLITS` is read from."""
        if split == "validation" and self.sources.validation is None:
            return self.sources.labelled
        return getattr(self.sources, split)

    def fingerprint(self) -> FingerprintConfig | None:
        """Settings of the pass that hashes the unlabelled images; None where no near copies are looked for."""
        duplicates = self.data.duplicates
        if duplicates.near_radius is None and duplicates.repeat_radius is None:
            return None
        return FingerprintConfig(max_missing=self.data.max_missing)

    def exclusions(self) -> ExclusionsConfig:
        """Settings of the search for evaluation images among the unlabelled ones."""
        return ExclusionsConfig(**self.data.duplicates.model_dump())

    def fit_teacher(self) -> FitConfig:
        """The first teacher's fit."""
        return self._fit(self.teacher, "teacher")

    def fit_selector(self) -> FitConfig | None:
        """The selector's fit; None where the teacher selects."""
        return None if self.selector == "teacher" else self._fit(self.selector, "selector")

    def fit_student(self, iteration: int) -> FitConfig:
        """The fit of student `iteration`, counted from 1."""
        student = self.iterations[iteration - 1]
        if student.finetune is not None:
            alone = student.train.model_copy(update={"loss_weighting": "unlabelled_only"})
            student = student.model_copy(update={"train": alone})
        return self._fit(student, f"student {iteration}", student.pseudo_labels)

    def fit_finetune(self, iteration: int) -> FitConfig | None:
        """The fit on labelled images that goes on from student `iteration`; None where it learns both kinds jointly."""
        student = self.iterations[iteration - 1]
        if student.finetune is None:
            return None
        return self._fit(student.model_copy(update={"train": student.finetune}), f"student {iteration}, fine-tuned")

    def fit_baseline(self, iteration: int) -> FitConfig:
        """The same net as student `iteration`, on the labelled images alone, as long as its student sees them."""
        return self._fit(self.iterations[iteration - 1], "baseline")

    def fix_resolution(self, iteration: int) -> FixResolutionConfig | None:
        """The short fit at a larger resolution that follows the fit of model `iteration`, 0 being the teacher."""
        learner = (self.teacher, *self.iterations)[iteration]
        if (fix := learner.fix_resolution) is None:
            return None
        size = {"resolution_px": fix.resolution_px, "crop_fraction": fix.crop_fraction}
        return FixResolutionConfig(
            num_classes=self.data.num_classes,
            model=learner.model.model_copy(update=size),
            train=fix.train,
            noise=InputNoise(num_ops=0, crop="none", flip=False),
            class_names=self.data.class_names,
            seed=_seed(self.seed, f"resolution {iteration}"),
            execution=self.execution,
            frozen_share=fix.frozen_share,
        )

    def fits(self) -> list[FitConfig]:
        """Every fit of the run, resolutions fixed included."""
        found: list[FitConfig | None] = []
        if self.teacher.checkpoint is None:
            found.append(self.fit_teacher())
        if self.selector != "teacher" and self.selector.checkpoint is None:
            found.append(self.fit_selector())
        for number in self.student_iterations:
            found += [self.fit_student(number), self.fit_finetune(number)]
        found += map(self.fit_baseline, self.baseline_iterations)
        found += map(self.fix_resolution, range(len(self.iterations) + 1))
        return [fit for fit in found if fit is not None]

    def predict(self, keep: Literal["label", "distribution"]) -> PredictConfig:
        """Settings of a labelling pass without noise, as the selector's is."""
        return PredictConfig(keep=keep, batch_size=self.batch_size, max_missing=self.data.max_missing)

    def teach(self, iteration: int) -> PredictConfig:
        """Settings of the pass in which the teacher of student `iteration` labels the selected images."""
        if not self.noised_teacher:
            return self.predict("distribution")
        teacher = self.teacher_of(iteration)
        noise = TeacherNoise(
            input_noise=teacher.noise,
            dropout=teacher.model.dropout,
            stochastic_depth=teacher.model.stochastic_depth,
            seed=_seed(self.seed, f"noised teacher {iteration}"),
        )
        return self.predict("distribution").model_copy(update={"noise": noise})

    def teacher_of(self, iteration: int) -> LearnerConfig:
        """The learner that teaches student `iteration`: the first teacher, then each student the next one."""
        return (self.teacher, *self.iterations)[iteration - 1]

    def select(self) -> SelectConfig:
        """Settings of filtering and balancing."""
        return SelectConfig(**self.selection.model_dump(exclude={"materialise"}), seed=self.seed)

    def materialise(self) -> MaterialiseConfig | None:
        """Settings that write the selected images with their bytes; None where students read them where they lie."""
        if not self.selection.materialise:
            return None
        return MaterialiseConfig(images_per_part=self.data.images_per_part, seed=self.seed)

    def evaluate(self, benchmark: str, suite: Suite | None = None) -> EvaluateConfig:
        """Settings of a measurement on `benchmark` ("validation" or "test"): of accuracy, or of a suite."""
        return EvaluateConfig(benchmark=benchmark, batch_size=self.batch_size, suite=suite)

    def corrupt(self, suite: Corruptions | Perturbations, iteration: int) -> CorruptConfig:
        """Settings of the images of a suite as model `iteration` sees them, before its resolution is fixed."""
        model = (self.teacher, *self.iterations)[iteration].model
        return CorruptConfig(suite=suite, resolution_px=model.resolution_px, crop_fraction=model.crop_fraction)

    def _fit(self, learner: LearnerConfig, role: str, pseudo_labels: PseudoLabelConfig | None = None) -> FitConfig:
        return FitConfig(
            num_classes=self.data.num_classes,
            model=learner.model,
            train=learner.train,
            noise=learner.noise,
            pseudo_labels=pseudo_labels,
            class_names=self.data.class_names,
            seed=_seed(self.seed, role),
            execution=self.execution,
            overfit_one_batch=self.debug.overfit_one_batch,
        )


def _mapping(balance: object) -> dict[int, int]:
    return balance if isinstance(balance, dict) else {}


def _seed(seed: int, role: str) -> int:
    """A seed of 31 bits of its own for each role of a run."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {role}".encode(), digest_size=4).digest()) >> 1
