"""What is fitted: a model with its training and noise, and what makes it a student."""

from pydantic import model_validator

from noisystudent_core.config.settings import (
    InputNoise,
    ModelConfig,
    PseudoLabelConfig,
    ResolutionFix,
    Settings,
    TrainConfig,
)


class LearnerConfig(Settings):
    """A model, its training and its input noise."""

    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    noise: InputNoise = InputNoise()
    fix_resolution: ResolutionFix | None = None  # after the fit; None: evaluated at the resolution it was fitted at
    # given, it is not fitted: the URL of a finished checkpoint, or "pretrained" for the weights that `model` names
    checkpoint: str | None = None

    @model_validator(mode="after")
    def _weights_to_take(self) -> "LearnerConfig":
        if self.checkpoint == "pretrained" and not self.model.pretrained and self.model.weights is None:
            raise ValueError('checkpoint="pretrained": model names no weights; set model.pretrained or model.weights')
        return self


class IterationConfig(LearnerConfig):
    """One student: a learner, and how it uses its teacher's labels."""

    pseudo_labels: PseudoLabelConfig = PseudoLabelConfig()
    warm_start: bool = False  # from its teacher's weights instead of fresh ones (appendix, study 8); of equal nets only
    # given, pseudo labels alone are learnt by `train`, then labelled images alone by this (appendix, study 6)
    finetune: TrainConfig | None = None

    @model_validator(mode="after")
    def _one_beginning(self) -> "IterationConfig":
        if self.checkpoint is not None:
            raise ValueError(
                f"checkpoint={self.checkpoint!r}: a student is always fitted; make it the teacher, or begin with its "
                "weights by model.weights"
            )
        if self.warm_start and (self.model.pretrained or self.model.weights is not None):
            raise ValueError("warm_start=True and published weights in model: two beginnings; keep one of them")
        return self
