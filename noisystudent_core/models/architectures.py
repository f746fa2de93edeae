"""timm models as this project fits them: weights, head and batch norm; their noise is set in `noise.model_noise`."""

import difflib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from noisystudent_core.config.settings import ModelConfig
from noisystudent_core.errors import ConfigurationError


def create_model(config: ModelConfig, num_classes: int, seed: int, batch_norm_momentum: float) -> nn.Module:
    """Build the net, with fresh, published, or local weights, ready to be fitted.

    A DropPath stands in every residual block (its rate is set by `noise.model_noise`). The head's initial weights are
    scaled down to `head_init_range`: timm's for ten classes make an untrained head confident. `batch_norm_momentum`
    is PyTorch's sense. Raises `ConfigurationError` for a name timm does not know or weights that do not fit.
    """
    cfg = _cfg(config.name)
    arguments: dict[str, Any] = {"num_classes": num_classes, "pretrained": config.pretrained}
    classes = head_classes(config)
    if config.weights is not None:
        arguments |= {"pretrained": True, "pretrained_cfg_overlay": {"file": config.weights, "num_classes": classes}}
    if cfg.get("fixed_input_size"):
        arguments["img_size"] = config.resolution_px
    if config.stochastic_depth > 0:
        arguments["drop_path_rate"] = config.stochastic_depth
    torch.manual_seed(seed)
    try:
        model = timm.create_model(config.name, **arguments)
    except (RuntimeError, TypeError, ValueError, OSError) as error:
        raise ConfigurationError(f"model {config.name!r} cannot be built: {error}{_remedy(config)}") from error
    if classes != num_classes:
        _scale_head(model, config.head_init_range)
    _set_batch_norm_momentum(model, batch_norm_momentum)
    return model


def head_classes(config: ModelConfig) -> int | None:
    """How many classes the head has that comes with the model's weights; None where they are fresh."""
    cfg = _cfg(config.name)
    if config.weights is not None:
        return _head_classes(config.weights, cfg["classifier"])
    return cfg["num_classes"] if config.pretrained else None


def check_head(config: ModelConfig, num_classes: int) -> None:
    """Raise `ConfigurationError` unless the model's weights come with a head of these classes."""
    if (found := head_classes(config)) != num_classes:
        raise ConfigurationError(
            f"model {config.name!r} comes with a head of {found or 'no'} classes, the data have {num_classes}: "
            f'without a fit its labels mean nothing; leave out checkpoint="pretrained", or give weights of that many'
        )


def start_from(net: nn.Module, teacher: nn.Module) -> None:
    """Give a net the weights of its teacher, head and batch-norm statistics included (paper's appendix, study 8).

    Raises `ConfigurationError` unless both are of one architecture.
    """
    try:
        net.load_state_dict(teacher.state_dict())
    except RuntimeError as error:
        raise ConfigurationError(
            f"warm_start: the teacher's weights do not fit ({str(error).splitlines()[-1].strip()}); "
            "a student may begin with them only if it is the same net"
        ) from None


def check_name(name: str) -> None:
    """Raise `ConfigurationError`, with the nearest names, unless timm knows `name` and its tag of weights, if any."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.5)) or "none"
        raise ConfigurationError(f"model {name!r}: timm {timm.__version__} has no such architecture; similar: {near}")
    tagged = timm.list_models(f"{architecture}.*", include_tags=True)
    if tag and name not in tagged:
        known = ", ".join(tagged) or "none"
        raise ConfigurationError(f"model {name!r}: timm knows no such tag of weights; there are {known}")


def num_parameters(config: ModelConfig, num_classes: int) -> int:
    """Parameters of the net, counted without allocating them; raises as `on_paper` does."""
    return sum(parameter.numel() for parameter in on_paper(config, num_classes).parameters())


def on_paper(
    config: ModelConfig, num_classes: int, watch: Callable[[nn.Module], AbstractContextManager[Any]] = nullcontext
) -> nn.Module:
    """The net without memory for its weights, after it was given one image, in the block of `watch(net)`.

    Raises `ConfigurationError` for a name timm does not know, and for images of a size that the net cannot take.
    """
    arguments: dict[str, Any] = {"img_size": config.resolution_px} if _cfg(config.name).get("fixed_input_size") else {}
    size = (1, 3, config.resolution_px, config.resolution_px)
    try:
        with torch.device("meta"), torch.no_grad():
            model = timm.create_model(config.name, num_classes=num_classes, **arguments).eval()
            with watch(model):
                model(torch.empty(size))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ConfigurationError(
            f"resolution_px={config.resolution_px}: {config.name} cannot take images of this size "
            f"({str(error).splitlines()[0]}); choose a larger size, or a net made for small images (cifar_resnet20, "
            "tf_efficientnet_b0_32px)"
        ) from None
    return model


def with_own_geometry(config: ModelConfig) -> ModelConfig:
    """The same model at the size and crop that its weights were published to be tested at."""
    cfg = _cfg(config.name)
    size = (cfg.get("test_input_size") or cfg["input_size"])[-1]
    crop_fraction = cfg.get("test_crop_pct") or cfg["crop_pct"]
    return config.model_copy(update={"resolution_px": size, "crop_fraction": crop_fraction})


def normalisation(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [1, 3, 1, 1] on the 0..255 scale that the model's inputs are normalised with."""
    cfg: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    mean, std = torch.tensor(cfg["mean"]), torch.tensor(cfg["std"])
    return (mean * 255).view(1, -1, 1, 1), (std * 255).view(1, -1, 1, 1)


class Normalised(nn.Module):
    """A net that takes images [B, 3, S, S] from 0 to 255, uint8 or float32, and returns logits [B, C] in float32."""

    net: nn.Module
    scale: Tensor
    shift: Tensor

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        mean, std = normalisation(net)
        self.register_buffer("scale", 1 / std, persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise, and run the net."""
        inputs = torch.addcmul(self.shift, images.float(), self.scale)
        return self.net(inputs.contiguous(memory_format=torch.channels_last)).float()


def device() -> torch.device:
    """The device this process was given: its first visible GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _scale_head(model: nn.Module, limit: float) -> None:
    """Shrink the classifier's fresh weights so that none exceeds `limit`."""
    head = model.get_classifier()  # type: ignore[operator]
    if not isinstance(head, nn.Linear):
        return
    with torch.no_grad():
        largest = head.weight.abs().max().item()
        if largest > limit:
            head.weight.mul_(limit / largest)


def _set_batch_norm_momentum(model: nn.Module, momentum: float) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = momentum


def _cfg(name: str) -> dict[str, Any]:
    check_name(name)
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None:
        raise ConfigurationError(f"model {name!r}: timm keeps no input settings for it; choose another architecture")
    return cfg.to_dict()


def _head_classes(weights: str, classifier: str) -> int:
    """How many classes the head in a safetensors file has."""
    try:
        with safe_open(weights, framework="pt") as file:
            return file.get_slice(f"{classifier}.weight").get_shape()[0]
    except (OSError, SafetensorError) as error:
        raise ConfigurationError(
            f"weights={weights!r}: {error}; give a safetensors file of this architecture, with its {classifier}.weight"
        ) from None


def _remedy(config: ModelConfig) -> str:
    return "; where the hub is out of reach, give a local file as weights" if config.pretrained else ""
