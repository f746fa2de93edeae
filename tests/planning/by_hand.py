"""Plans on small round numbers: sets, machines and nets whose costs are counted by hand."""

from noisystudent_core.config import ModelConfig
from noisystudent_core.planning.counts import Images
from noisystudent_core.planning.fits import Machine
from noisystudent_core.planning.nets import NetCost
from noisystudent_core.planning.probes import Probe
from noisystudent_core.planning.rates import Rate

GPU = Machine(num_devices=1, memory_bytes=1e12, is_cpu=False)
COST = NetCost(flops=2e9, num_parameters=1_000_000, activations=500_000, family="resnet")


def images(number: int, bytes_each: int = 1000) -> Images:
    return Images((number,), number * bytes_each)


def nets(model: ModelConfig, num_classes: int) -> NetCost:
    """Every net costs 2 GFLOPs an image at 32 px, by area at other sizes."""
    return COST._replace(flops=COST.flops * (model.resolution_px / 32) ** 2)


def ten_a_second(probe: object) -> Rate:
    return Rate(10.0, "measured", "by hand")


def known(*rates: tuple[Probe, Rate]) -> dict[Probe, Rate]:
    """Measured rates."""
    return dict(rates)
