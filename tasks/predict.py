"""Labelling: a model's opinion of every image of a set, or of the selected ones."""

from noisystudent_core.config import PredictConfig
from tasks.by_part import by_part
from tasks.running import Ref, Run


def label(role: str, config: PredictConfig, inputs: dict[str, Ref], run: Run, iteration: int | None = None) -> Ref:
    """Submit a whole labelling pass: inputs {"checkpoint", "images"} and {"selection"}, URLs or futures of them."""
    return by_part(f"label by {role}", "predict", config, inputs, run, iteration)
