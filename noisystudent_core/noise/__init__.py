"""Noise for training: RandAugment and standard augmentation of images, dropout and stochastic depth in models."""
