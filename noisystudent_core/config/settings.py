"""The settings of one model, one fit and each stage; every default is the paper's, its section beside it."""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from noisystudent_core.config.shares import check_shares, num_processes

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]
# of the selected images of each class: the same, the labelled images' shares, all there are once, or as many as mapped
Balance = Literal["uniform", "labelled_prior", "none"] | dict[int, Annotated[int, Field(ge=1)]]


class Settings(BaseModel):
    """Frozen, complete, and deaf to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class StageSettings(Settings):
    """What one stage reads: with the inputs' content digests it decides the stage's key."""

    stage: ClassVar[str]
    kind: ClassVar[str]  # of the artifact the stage writes
    version: ClassVar[int]  # raised whenever the same inputs give other bytes
    resumes: ClassVar[bool] = False  # a long stage: done by one run at a time, goes on where an interrupted one was
    not_in_key: ClassVar[frozenset[str]] = frozenset()  # fields that say how, never what


class ModelConfig(Settings):
    """A timm architecture with the paper's model noise (section 3.1, "Noise")."""

    name: str = "tf_efficientnet_b0"  # any timm name
    resolution_px: Annotated[int, Field(ge=8)] = 224  # images are seen at this size
    crop_fraction: Annotated[float, Field(gt=0, le=1)] = 0.875  # evaluation: resize to size / fraction, crop size
    dropout: Fraction = 0.5  # on the final layer
    stochastic_depth: Fraction = 0.2  # drop rate of the last block, linear from the first: survival 0.8
    pretrained: bool = False  # the weights timm publishes under this name
    weights: str | None = None  # or a safetensors file of this architecture; its head may have other classes
    head_init_range: Annotated[float, Field(gt=0)] = 0.0316  # limit of the head's initial weights, 1/sqrt(1000)

    @model_validator(mode="after")
    def _one_origin(self) -> "ModelConfig":
        if self.pretrained and self.weights is not None:
            raise ValueError(f"weights={self.weights!r} and pretrained=True: two origins; keep one of them")
        return self


class InputNoise(Settings):
    """What happens to a training image before the model sees it (section 3.1; METHOD's dialects)."""

    dialect: Literal["google", "timm", "torchvision"] = "google"  # whose reading of "magnitude"
    num_ops: Annotated[int, Field(ge=0)] = 2  # 0: no RandAugment
    magnitude: Annotated[float, Field(ge=0)] = 27
    translate_const: Annotated[float, Field(ge=0)] = 100  # google: pixels of a translation of magnitude 10
    cutout_const: Annotated[float, Field(ge=0)] = 40  # google: half the side, in pixels, of a cutout of magnitude 10
    crop: Literal["resized", "translate", "none"] = "resized"  # a random box; the whole image moved; as in evaluation
    crop_min_area: Annotated[float, Field(gt=0, le=1)] = 0.08  # resized: least share of the image
    crop_padding_px: Annotated[int, Field(ge=0)] = 4  # translate: pad by this much and crop back
    crop_padding_mode: Literal["zero", "reflect"] = "zero"  # translate: black, or mirrored (the reference at 32 px)
    flip: bool = True  # horizontal, one in two
    cutout_px: Annotated[int, Field(ge=0, multiple_of=2)] = 0  # side of a grey square over every image; reference: 16


class OptimizerConfig(Settings):
    """RMSProp, SGD or AdamW; the learning rate is stated per `learning_rate_batch` labelled images, scaled linearly."""

    name: Literal["rmsprop", "sgd", "adamw"] = "rmsprop"
    learning_rate: Annotated[float, Field(gt=0)] = 0.128
    learning_rate_batch: Annotated[int, Field(ge=1)] = 2048
    momentum: Fraction = 0.9  # AdamW: its first beta
    nesterov: bool = True  # SGD: the gradient is taken where momentum leads
    decay: Fraction = 0.9  # RMSProp's alpha; AdamW: its second beta
    eps: Annotated[float, Field(gt=0)] = 1e-3  # RMSProp: inside the root
    weight_decay: Annotated[float, Field(ge=0)] = 1e-5  # on everything but norms
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0  # factor on the learning rate per layer below the head


class TrainConfig(Settings):
    """How long and how a model is fitted (section 3.1, "Training details"); epochs count labelled images."""

    epochs: Annotated[float, Field(gt=0)] | None = 350
    steps: Annotated[int, Field(ge=1)] | None = None  # instead of epochs
    batch_size: Annotated[int, Field(ge=1)] = 2048  # labelled images a step
    micro_batches: Annotated[int, Field(ge=1)] = 1  # a step's images are taken in so many equal goes, to save memory
    shuffle_window: Annotated[int, Field(ge=1)] = 100_000  # images shuffled together; beyond them, whole parts are
    precision: Literal["auto", "float32", "bf16"] = "auto"  # auto: bf16 autocast on a GPU, float32 on a CPU
    compile: bool = False  # torch.compile: minutes at the start, then faster steps on a GPU
    clip_norm: Annotated[float, Field(gt=0)] | None = None  # the gradient's norm is cut to it
    batch_norm: Literal["joint", "split"] = "joint"  # statistics over labelled and unlabelled images, or of each apart
    sync_batch_norm: bool = False  # statistics over all processes of a fit on GPUs, else each of its own share
    loss_weighting: Literal["concat_mean", "sum_of_means", "per_labelled", "unlabelled_only"] = "concat_mean"
    label_smoothing: Fraction = 0.1  # labelled images and hard pseudo labels
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: Literal["step_exponential", "steps", "cosine"] = "step_exponential"
    warmup_epochs: Annotated[float, Field(ge=0)] = 5
    decay_epochs: Annotated[float, Field(gt=0)] = 2.4
    decay_rate: Annotated[float, Field(gt=0, le=1)] = 0.97
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.5, 0.75)  # steps: shares of the fit, x decay_rate
    ema_decay: Fraction = 0.9999  # 0: the raw weights
    batch_norm_momentum: Annotated[float, Field(gt=0, le=1)] = 0.01  # PyTorch's sense: 1 - 0.99
    num_validations: Annotated[int, Field(ge=1)] = 10  # points of the validation curve, the last at the end
    log_every_steps: Annotated[int, Field(ge=1)] = 50

    @model_validator(mode="after")
    def _one_duration(self) -> "TrainConfig":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"epochs={self.epochs} and steps={self.steps}: give one of them, and null for the other")
        return self

    @model_validator(mode="after")
    def _milestones_in_order(self) -> "TrainConfig":
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones={list(self.milestones)}: must ascend, as in [0.5, 0.75]")
        return self

    def num_steps(self, num_labelled: int) -> int:
        """Optimiser steps of the whole fit on `num_labelled` images."""
        return self.steps if self.steps is not None else self.to_steps(self.epochs or 0.0, num_labelled)

    def to_steps(self, epochs: float, num_labelled: int) -> int:
        """Optimiser steps in `epochs` passes over the labelled images, at least one unless `epochs` is zero."""
        return max(1, round(epochs * num_labelled / self.batch_size)) if epochs else 0


class TeacherNoise(Settings):
    """The noise that a teacher labels under in the ablation "noised teacher" (table 6); batch norm is not touched."""

    input_noise: InputNoise
    dropout: Fraction
    stochastic_depth: Fraction
    seed: int  # with an image's id it decides everything that is drawn for the image


class PseudoLabelConfig(Settings):
    """How a student uses what its teacher said (Algorithm 1; section 3.1), and how noised it sees it (table 6)."""

    unlabelled_ratio: Annotated[float, Field(ge=1)] = 14  # unlabelled : labelled images a step; the paper: 14, 28
    labels: Literal["soft", "hard"] = "soft"
    temperature: Annotated[float, Field(gt=0)] = 1.0  # stored probabilities p become p^(1/T), renormalised
    noise: InputNoise | None = None  # of the pseudo-labelled images; None: that of the labelled ones
    model_noise: bool = True  # False: dropout and stochastic depth act on the labelled images of a step alone


class ExecutionConfig(Settings):
    """How a fit is carried out; what comes out is the same, so that none of it enters the stage's key."""

    data: Literal["auto", "resident", "streaming"] = "auto"  # auto: resident where the images fit into memory
    num_processes: Annotated[int, Field(ge=1)] | None = None  # None: one a GPU, as many as divide a step; a CPU: one
    num_workers: Annotated[int, Field(ge=0)] | None = None  # streaming: decoding processes; None: one a core
    cache_dir: str | None = None  # streaming: a local folder that keeps parts read from a bucket
    cache_bytes: Annotated[int, Field(ge=0)] = 100_000_000_000  # the oldest parts beyond it are dropped
    state_every_steps: Annotated[int, Field(ge=1)] = 1000  # after which the state is saved, to go on from


class AdoptConfig(StageSettings):
    """A model that is not fitted: the weights it comes with, as they are, become a checkpoint."""

    stage, kind, version = "adopt", "checkpoints", 1
    num_classes: Annotated[int, Field(ge=2)]
    model: ModelConfig
    class_names: tuple[str, ...] | None = None  # kept in the checkpoint's config.json
    own_geometry: bool = False  # images as the weights were published for, not as `model` says


class FitConfig(StageSettings):
    """A model fitted on labelled images, and on pseudo-labelled ones where `pseudo_labels` is set."""

    stage, kind, version = "fit", "checkpoints", 2
    resumes, not_in_key = True, frozenset({"execution"})
    num_classes: Annotated[int, Field(ge=2)]
    model: ModelConfig
    train: TrainConfig
    noise: InputNoise
    pseudo_labels: PseudoLabelConfig | None = None
    class_names: tuple[str, ...] | None = None  # kept in the checkpoint's config.json
    seed: int = 0
    overfit_one_batch: bool = False  # a check of a set-up: every step sees the batch of step 0, noise included
    execution: ExecutionConfig = ExecutionConfig()

    @property
    def images_per_step(self) -> tuple[int, int]:
        """Labelled and unlabelled images of a step."""
        ratio = 0.0 if self.pseudo_labels is None else self.pseudo_labels.unlabelled_ratio
        return self.train.batch_size, round(self.train.batch_size * ratio)

    @model_validator(mode="after")
    def _equal_shares(self) -> "FitConfig":
        self.check_shares(self.execution.num_processes or 1)
        return self

    def check_shares(self, num_processes: int) -> None:
        """Raise `ConfigurationError` unless so many processes have equal shares of a step's images."""
        check_shares(self.images_per_step, self.train.micro_batches, num_processes)

    def num_processes(self, num_gpus: int) -> int:
        """How many processes carry out the fit where so many GPUs are at hand."""
        return num_processes(self.execution.num_processes, self.images_per_step, self.train.micro_batches, num_gpus)

    def without_fit(self) -> AdoptConfig:
        """Settings that take this model's published weights as they are."""
        return AdoptConfig(num_classes=self.num_classes, model=self.model, class_names=self.class_names)


class ResolutionFix(Settings):
    """Fixing the train-test resolution discrepancy after a fit (section 3.1; Touvron et al. 2019)."""

    resolution_px: Annotated[int, Field(ge=8)]  # larger than the model's; L2: 800 after 475
    crop_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    frozen_share: Annotated[float, Field(ge=0, le=1)] = 0.75  # of the layers below the head; the paper names no number
    train: TrainConfig = TrainConfig(
        epochs=1.5,
        optimizer=OptimizerConfig(name="sgd", learning_rate=0.01, learning_rate_batch=2048),
        schedule="cosine",
        warmup_epochs=0,
        ema_decay=0.0,
        num_validations=1,
    )


class FixResolutionConfig(FitConfig):
    """A checkpoint fine-tuned at a larger resolution on unaugmented labelled images, its shallow layers frozen."""

    stage, version = "fix_resolution", 1
    frozen_share: Annotated[float, Field(ge=0, le=1)]


class PartSettings(StageSettings):
    """A stage that does the same work on every image part, each by itself."""

    not_in_key = frozenset({"max_missing"})
    max_missing: Annotated[float, Field(ge=0, le=1)] = 0.01  # share of the images without a result: above it, an error


class PredictConfig(PartSettings):
    """A model's label and confidence for every image, without noise but in the ablation "noised teacher"."""

    stage, kind, version = "predict", "predictions", 2
    not_in_key = PartSettings.not_in_key | {"compile", "num_decoders"}
    keep: Literal["label", "distribution"] = "label"
    batch_size: Annotated[int, Field(ge=1)] = 256  # fixed; on a CPU at most 8 images of 224 px, more of smaller ones
    noise: TeacherNoise | None = None
    precision: Literal["auto", "float32", "bf16"] = "auto"  # auto: bf16 autocast on a GPU, float32 on a CPU
    decoder: Literal["cpu", "gpu"] = "cpu"  # gpu: nvJPEG, whose pixels differ by a few grey levels
    compile: bool = False  # torch.compile: minutes at the start, then faster on a GPU
    num_decoders: Annotated[int, Field(ge=0)] | None = None  # processes; None: one a core for a GPU, 0 for a CPU

    @model_validator(mode="after")
    def _selector_without_noise(self) -> "PredictConfig":
        if self.noise is not None and self.keep != "distribution":
            raise ValueError(
                f'noise with keep="{self.keep}": only a teacher that labels for a student, keep="distribution", may be '
                "noised (table 6), never the selector; leave noise out"
            )
        return self


class SelectConfig(StageSettings):
    """Which pseudo-labelled images the students see, and how often (section 2, "Other Techniques")."""

    stage, kind, version = "select", "selection", 3
    threshold: Fraction = 0.3  # kept: confidence strictly above it
    max_confidence: Share = 1.0  # and at most this
    fraction: Share = 1.0  # of the images, by a seeded hash of their ids (appendix, study 2)
    num_images_per_class: Annotated[int, Field(ge=1)] = 130_000
    balance: Balance = "uniform"
    max_copies: Annotated[int, Field(ge=1)] | None = None
    seed: int = 0


class MaterialiseConfig(StageSettings):
    """The selected images with their bytes, shuffled across parts: for fits that use a small share of a huge corpus."""

    stage, kind, version = "materialise", "selected_images", 1
    resumes, not_in_key = True, frozenset({"memory_bytes"})
    images_per_part: Annotated[int, Field(ge=1)] = 10_000  # on average: an image's part is drawn
    memory_bytes: Annotated[int, Field(ge=1)] = 1_000_000_000  # of images worked on; one part takes four times its own
    seed: int = 0
