"""Make `attacks.npz`: the weights of a small net, and what it predicts for images that two libraries attacked.

python -m tests.evaluation.make_attacks, where torchattacks 3.5.1 and foolbox 3.3.4 are installed beside this project;
neither is needed by the tests.
"""

import foolbox  # type: ignore[import-not-found]
import numpy as np
import torch
import torch.nn.functional as F
import torchattacks  # type: ignore[import-not-found]
from torch import Tensor, nn

from noisystudent_core.models.architectures import Normalised
from tests.evaluation.attacked import FIXTURE, NUM_IMAGES, SmallNet, digits

FGSM_EPSILONS = (1, 2, 4, 8, 16)
PGD = ((4, 10, 1.0), (16, 10, 4.0), (16, 3, 2.0))  # epsilon, steps, step size, in grey levels


class UnitPixels(nn.Module):
    """The net for pixels from 0 to 1, which is what the libraries attack."""

    def __init__(self, net: Normalised) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, 10] of images float [B, 3, S, S]."""
        return self.net(images * 255)


def fit() -> SmallNet:
    """Fit the net for a few epochs on the example's validation images."""
    torch.manual_seed(0)
    images, labels = digits("validation", 10**6)
    net = SmallNet()
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(8):
        for rows in torch.randperm(len(images)).split(64):
            loss = F.cross_entropy(Normalised(net)(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net


def attacks(net: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Images [N, 3, S, S] from 0 to 1 after each attack, by library and attack."""
    wrapped = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    found = {}
    for epsilon in FGSM_EPSILONS:
        found[f"torchattacks/fgsm_{epsilon}"] = torchattacks.FGSM(net, eps=epsilon / 255)(images, labels)
        one_step = foolbox.attacks.FGSM(random_start=False)
        found[f"foolbox/fgsm_{epsilon}"] = one_step(wrapped, images, labels, epsilons=epsilon / 255)[1]
    for epsilon, steps, step_size in PGD:
        settings = {"steps": steps, "random_start": False}
        theirs = torchattacks.PGD(net, eps=epsilon / 255, alpha=step_size / 255, **settings)
        found[f"torchattacks/pgd_{epsilon}_{steps}_{step_size:g}"] = theirs(images, labels)
        theirs = foolbox.attacks.LinfPGD(abs_stepsize=step_size / 255, **settings)
        attacked = theirs(wrapped, images, labels, epsilons=epsilon / 255)[1]
        found[f"foolbox/pgd_{epsilon}_{steps}_{step_size:g}"] = attacked
    return found


def main() -> None:
    """Fit, attack, predict, store."""
    net = fit().eval()
    weights = {f"weights/{name}": tensor.numpy() for name, tensor in net.state_dict().items()}
    images, labels = digits("test", NUM_IMAGES)
    unit = UnitPixels(Normalised(net)).eval()  # all of it: torchattacks puts back the mode that it found
    predictions = {
        name: unit(attacked).argmax(1).to(torch.uint8).numpy()
        for name, attacked in attacks(unit, images / 255, labels).items()
    }
    np.savez_compressed(FIXTURE, **weights, **predictions)
    for name, found in predictions.items():
        print(name, (found == labels.numpy()).mean())


if __name__ == "__main__":
    main()
