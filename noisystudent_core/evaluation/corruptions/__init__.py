"""The 15 corruptions of ImageNet-C and CIFAR-10-C, on whole batches, and the errors under them.

Hendrycks and Dietterich 2019, "Benchmarking neural network robustness to common corruptions and perturbations";
constants and steps are those of the published generators (`constants`), the code is our own.
"""

from noisystudent_core.evaluation.corruptions.constants import NAMES, PROCEDURAL_FROST, SEVERITIES, Generator
from noisystudent_core.evaluation.corruptions.errors import ALEXNET, mean_corruption_error, run
from noisystudent_core.evaluation.corruptions.frost import Textures, read_textures
from noisystudent_core.evaluation.corruptions.generate import corrupt, names

__all__ = [
    "ALEXNET",
    "NAMES",
    "PROCEDURAL_FROST",
    "SEVERITIES",
    "Generator",
    "Textures",
    "corrupt",
    "mean_corruption_error",
    "names",
    "read_textures",
    "run",
]
