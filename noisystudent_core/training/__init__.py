"""Fitting one model: losses, optimiser, schedule, EMA, the step, and the loop around it."""
