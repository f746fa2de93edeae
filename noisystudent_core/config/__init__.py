"""Every setting: frozen pydantic models whose defaults are the paper's."""

from noisystudent_core.config.overrides import apply_overrides, parse_assignments, validated
from noisystudent_core.config.run import (
    SPLITS,
    DataConfig,
    IterationConfig,
    LearnerConfig,
    NoisyStudentConfig,
    SelectionConfig,
    Sources,
)
from noisystudent_core.config.settings import (
    EvaluateConfig,
    ExclusionsConfig,
    FitConfig,
    IngestConfig,
    InputNoise,
    ModelConfig,
    OptimizerConfig,
    PredictConfig,
    PrepareConfig,
    PseudoLabelConfig,
    SelectConfig,
    StageSettings,
    TrainConfig,
)

__all__ = [
    "SPLITS",
    "DataConfig",
    "EvaluateConfig",
    "ExclusionsConfig",
    "FitConfig",
    "IngestConfig",
    "InputNoise",
    "IterationConfig",
    "LearnerConfig",
    "ModelConfig",
    "NoisyStudentConfig",
    "OptimizerConfig",
    "PredictConfig",
    "PrepareConfig",
    "PseudoLabelConfig",
    "SelectConfig",
    "SelectionConfig",
    "Sources",
    "StageSettings",
    "TrainConfig",
    "apply_overrides",
    "parse_assignments",
    "validated",
]
