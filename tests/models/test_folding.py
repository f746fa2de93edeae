"""Folded nets say what the nets say, with fewer layers; what cannot be folded stays."""

import pytest
import timm
import torch
from torch import Tensor, nn

from noisystudent_core.models.folding import folded


def used(net: nn.Module) -> nn.Module:
    """With batch norms that are not the identity."""
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0, 0.1, generator=generator)
    return net.eval()


def num_norms(net: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())


# what follows a sum or begins a block, in nets that normalise before they convolve, stays
@pytest.mark.parametrize(
    ("name", "num_left"),
    [
        ("test_resnet", 0),
        ("mobilenetv3_small_050", 0),
        ("tf_efficientnet_b0", 0),
        ("resnetv2_50", 17),
        ("test_vit", 0),
    ],
)
@torch.no_grad()
def test_outputs_are_the_same_and_norms_are_gone(name: str, num_left: int) -> None:
    torch.manual_seed(0)
    net = used(timm.create_model(name, num_classes=7))
    images = torch.randn(2, 3, *([160, 160] if name == "test_vit" else [64, 64]))
    expected, before = net(images), num_norms(net)
    found = folded(net)
    assert num_norms(found) == num_left
    assert (found(images) - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert num_norms(net) == before and torch.equal(net(images), expected)  # the net itself is left as it was


class Block(nn.Module):
    """A convolution seen by its norm, and by another reader; a norm called twice; and one of the batch's own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.last = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.norm, self.twice = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.own = nn.BatchNorm2d(3, track_running_stats=False)

    def forward(self, images: Tensor) -> Tensor:
        seen = self.first(images)
        again = self.twice(self.twice(self.again(self.norm(seen) + seen)))
        return self.own(self.last(again))


class Choosy(nn.Module):
    """What it does depends on its input."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images) if images.sum() > 0 else -self.net(images)


@pytest.mark.parametrize("make", [Block, Choosy])
@torch.no_grad()
def test_what_others_see_or_cannot_be_traced_stays(make: type[nn.Module]) -> None:
    net = used(make())
    images = torch.randn(2, 3, 8, 8)
    found = folded(net)
    assert num_norms(found) == num_norms(net)
    assert torch.equal(found(images), net(images))
