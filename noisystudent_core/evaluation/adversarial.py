"""Adversarial images by the gradient of the loss: FGSM and PGD, untargeted, in pixels from 0 to 255.

Sources: Goodfellow et al. 2015; Madry et al. 2018; paper, section 3.2 and figure 4. The net is measured before its
resolution is fixed.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from noisystudent_core.config.evaluation import AdversarialConfig
from noisystudent_core.data.mixing import derive
from noisystudent_core.errors import ConfigurationError, DataError
from noisystudent_core.evaluation.metrics import Batches, check_images, check_labels, ranks

DARKEST, BRIGHTEST = 0.0, 255.0


def fgsm(net: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Move every pixel by `epsilon` in the direction in which the loss grows: one step, clipped to 0..255.

    `images` [B, 3, S, S], uint8 or float in 0..255, and labels int64 [B] on the net's device, a `Normalised` one;
    returns float32. The net stays as it is. Raises `ConfigurationError` for an epsilon outside 0..255, `DataError` for
    pixels outside it, `LabelError` for labels that are no class.
    """
    _check_epsilon(epsilon)
    with _untouched(net):
        pixels = _pixels(images)
        return _clipped(pixels + epsilon * _ascent(net, pixels, labels))


def pgd(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    num_steps: int = 10,
    step_size: float | None = None,
    start_seeds: Tensor | None = None,
) -> Tensor:
    """Take `num_steps` steps of `step_size` (None: 2.5 epsilon / num_steps), each put back to within `epsilon`.

    `start_seeds` int64 [B]: begin at a random place within epsilon, a function of the image's seed alone; None: at the
    image. Otherwise as `fgsm`.
    """
    _check_epsilon(epsilon)
    step_size = 2.5 * epsilon / num_steps if step_size is None else step_size
    with _untouched(net):
        pixels = _pixels(images)
        moved = pixels if start_seeds is None else _clipped(pixels + epsilon * _places(pixels, start_seeds))
        for _ in range(num_steps):
            moved = moved + step_size * _ascent(net, moved, labels)
            moved = _clipped(pixels + (moved - pixels).clamp(-epsilon, epsilon))
    return moved


def run(net: nn.Module, batches: Batches, config: AdversarialConfig) -> Iterator[tuple[str, float]]:
    """Yield `fgsm_E/top1` for every E of the sweep and `pgd_E/top1`, in percent, over (uint8 [B, 3, S, S], int64 [B]).

    Raises as `fgsm` does, and `DataError` where there is no image.
    """
    device = next(net.parameters()).device
    first_seed = derive(config.seed, "adversarial", 0)
    hits: dict[str, int] = {}
    num_images = 0
    for images, labels in batches:
        images, labels = images.to(device), labels.to(device)
        seeds = first_seed + torch.arange(num_images, num_images + len(labels))
        for name, attacked in _attacks(net, images, labels, seeds, config):
            with _untouched(net), torch.no_grad():
                right = int((ranks(net(attacked), labels) == 0).sum())
            hits[name] = hits.get(name, 0) + right
        num_images += len(labels)
    check_images(num_images)
    for name, number in hits.items():
        yield f"{name}/top1", 100 * number / num_images


def _attacks(
    net: nn.Module, images: Tensor, labels: Tensor, seeds_B: Tensor, config: AdversarialConfig
) -> Iterator[tuple[str, Tensor]]:
    """A batch under every attack; FGSM's direction is the same for all epsilons."""
    with _untouched(net):
        pixels = _pixels(images)
        direction = _ascent(net, pixels, labels)
    for epsilon in config.fgsm_epsilons:
        yield f"fgsm_{epsilon:g}", _clipped(pixels + epsilon * direction)
    if config.pgd_epsilon is not None:
        start_seeds = seeds_B if config.pgd_random_start else None
        yield (
            f"pgd_{config.pgd_epsilon:g}",
            pgd(net, images, labels, config.pgd_epsilon, config.pgd_steps, config.pgd_step_size, start_seeds),
        )


def _ascent(net: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:
    """The sign of the loss's gradient by pixel: -1, 0 or 1."""
    with torch.enable_grad():
        pixels = pixels.detach().requires_grad_()
        logits = net(pixels)
        check_labels(labels, logits.shape[1])
        loss = F.cross_entropy(logits, labels, reduction="sum")  # a mean's small gradients would vanish earlier
        return torch.autograd.grad(loss, pixels)[0].sign()


@contextmanager
def _untouched(net: nn.Module) -> Iterator[None]:
    """Eval mode, float32 and no gradients for weights meanwhile; afterwards modes and flags are what they were."""
    modes = {module: module.training for module in net.modules()}
    learned = [parameter for parameter in net.parameters() if parameter.requires_grad]
    net.eval()
    try:
        for parameter in learned:
            parameter.requires_grad_(False)
        with torch.autocast(next(net.parameters()).device.type, enabled=False):
            yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)
        for module, mode in modes.items():
            module.training = mode


def _places(pixels: Tensor, seeds_B: Tensor) -> Tensor:
    """Uniform in -1..1, of the shape of `pixels`; an image's are a function of its seed."""
    draws = [
        torch.empty(pixels.shape[1:]).uniform_(-1, 1, generator=torch.Generator().manual_seed(seed))
        for seed in seeds_B.tolist()
    ]
    return torch.stack(draws).to(pixels.device)


def _pixels(images: Tensor) -> Tensor:
    pixels = images.float()
    if not bool(((pixels >= DARKEST) & (pixels <= BRIGHTEST)).all()):
        low, high = float(pixels.min()), float(pixels.max())
        raise DataError(f"pixels from {low:g} to {high:g}: must be from 0 to 255; give images before normalisation")
    return pixels


def _clipped(pixels: Tensor) -> Tensor:
    return pixels.clamp(DARKEST, BRIGHTEST)


def _check_epsilon(epsilon: float) -> None:
    if not (math.isfinite(epsilon) and 0 <= epsilon <= BRIGHTEST):
        raise ConfigurationError(
            f"epsilon={epsilon}: must be from 0 to 255, in grey levels; the paper's PGD uses 16 (section 3.2)"
        )
