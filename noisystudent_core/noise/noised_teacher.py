"""A teacher that labels with its own noise on: the ablation "noised teacher" of the paper's table 6."""

from typing import Any

from torch import Tensor, nn

from noisystudent_core.config.settings import TeacherNoise
from noisystudent_core.noise.input_noise import InputNoiser
from noisystudent_core.noise.model_noise import noise_by_seed, noise_model


class NoisedTeacher(nn.Module):
    """`teacher(images, seeds_B)`: logits of noised images by a noised net, each image by its own seed, in any batch.

    `framed` holds a timm net as `net` and takes uint8 images of `resolution_px`; its batch norm stays in eval mode.
    Raises ConfigurationError for noise that the net cannot carry.
    """

    def __init__(self, framed: nn.Module, noise: TeacherNoise, resolution_px: int) -> None:
        super().__init__()
        noise_model(framed.get_submodule("net"), noise.dropout, noise.stochastic_depth)
        self.framed = framed.eval()
        self._noiser = InputNoiser(noise.input_noise, resolution_px)

    def forward(self, images: Tensor, seeds_B: Tensor) -> Any:
        """Label uint8 images [B, 3, R, R] of `source_geometry`: logits float32 [B, C]."""
        noise_by_seed(self.framed, seeds_B)
        return self.framed(self._noiser(images, seeds_B))
