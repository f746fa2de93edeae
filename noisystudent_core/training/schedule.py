"""The learning rate as a function of the step (paper section 3.1, "Training details")."""

import math

from noisystudent_core.config.settings import TrainConfig


def learning_rate(train: TrainConfig, step: int, num_labelled: int) -> float:
    """Learning rate of step `step`, counted from 0.

    Scaled linearly from `learning_rate_batch` to `batch_size`; linear warm-up; then either x `decay_rate` every
    `decay_epochs`, in stairs counted from step 0 as in the reference, or half a cosine to zero.
    """
    peak = train.optimizer.learning_rate * train.batch_size / train.optimizer.learning_rate_batch
    warmup = train.to_steps(train.warmup_epochs, num_labelled)
    if step < warmup:
        return peak * (step + 1) / warmup
    if train.schedule == "step_exponential":
        return peak * train.decay_rate ** (step // train.to_steps(train.decay_epochs, num_labelled))
    progress = (step - warmup) / max(1, train.num_steps(num_labelled) - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
