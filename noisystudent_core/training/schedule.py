"""The learning rate as a function of the step (paper section 3.1, "Training details")."""

import math

from noisystudent_core.config.settings import TrainConfig

ROUNDING = 1e-9  # so that 24 steps of a tenth of an epoch are 2.4 epochs


def learning_rate(train: TrainConfig, step: int, num_labelled: int) -> float:
    """Learning rate of step `step`, counted from 0.

    Scaled linearly from `learning_rate_batch` to `batch_size`; linear warm-up; then x `decay_rate` every `decay_epochs`
    in stairs counted from step 0, as in the reference ("step_exponential"); x `decay_rate` at each of `milestones`,
    shares of the whole fit ("steps"); or half a cosine to zero.
    """
    peak = train.optimizer.learning_rate * train.batch_size / train.optimizer.learning_rate_batch
    warmup = train.to_steps(train.warmup_epochs, num_labelled)
    if step < warmup:
        return peak * (step + 1) / warmup
    num_steps = train.num_steps(num_labelled)
    match train.schedule:
        case "step_exponential":
            stairs = step * train.batch_size / num_labelled / train.decay_epochs  # not in whole steps: they would drift
            return peak * train.decay_rate ** math.floor(stairs + ROUNDING)
        case "steps":
            return peak * train.decay_rate ** sum(step >= share * num_steps for share in train.milestones)
        case "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))
