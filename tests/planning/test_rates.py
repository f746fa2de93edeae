"""Rates: kept ones, and those made of others."""

from pathlib import Path

import pytest

from noisystudent_core.config import Adversarial, ModelConfig
from noisystudent_core.errors import ConfigurationError
from noisystudent_core.planning import probes
from noisystudent_core.planning.devices import Device, published, utilisation
from noisystudent_core.planning.rates import Rate, Rates, estimate, flops_each
from tests.planning.by_hand import COST, known, nets

HERE = Device("two cores, CPU", 80e9, 8e9, 2, is_here=True)


def evaluate(px: int) -> probes.Probe:
    return probes.evaluate(ModelConfig(name="resnet18", resolution_px=px), 10, 256)


def test_a_rate_is_kept_for_its_probe_and_device(tmp_path: Path) -> None:
    rate = Rate(12.5, "measured", "batches of 256")
    Rates(str(tmp_path), "here").put(evaluate(32), rate)
    assert Rates(str(tmp_path), "here").get(evaluate(32)) == rate
    assert Rates(str(tmp_path), "here").get(evaluate(64)) is None
    assert Rates(str(tmp_path), "elsewhere").get(evaluate(32)) is None
    assert Rates(None, "here").get(evaluate(32)) is None


def test_a_damaged_file_is_no_rate(tmp_path: Path) -> None:
    rates = Rates(str(tmp_path), "here")
    rates.put(evaluate(32), Rate(1.0, "measured", ""))
    next(tmp_path.iterdir()).write_text('{"per_s": ')
    assert rates.get(evaluate(32)) is None


def test_another_net_does_as_many_operations_a_second() -> None:
    """Four times the pixels, a quarter of the images; of two measured nets the one of nearest cost counts."""
    measured = known((evaluate(32), Rate(100.0, "measured", "")), (evaluate(128), Rate(50.0, "measured", "")))
    found = estimate(evaluate(64), HERE, known((evaluate(32), measured[evaluate(32)])), nets, 2)
    assert (found.per_s, found.how) == (25.0, "scaled")
    assert estimate(evaluate(256), HERE, measured, nets, 2).per_s == 12.5


def test_on_paper_a_share_of_the_peak_is_assumed() -> None:
    """1e15 a second x 20% of a ResNet's / 2e9 an image."""
    device = Device("paper", 1e15, 80e9)
    found = estimate(evaluate(32), device, known((evaluate(32), Rate(1.0, "measured", ""))), nets, 2)
    assert (found.per_s, found.how) == (1e5, "assumed")
    shares = [utilisation(device, family) for family in ("efficientnet", "resnet", "vision_transformer")]
    assert shares == sorted(shares)


def test_labelling_is_no_faster_than_decoding() -> None:
    """A GPU waits for twelve cores that decode 6 times what two do; a CPU does both in turns."""
    model = ModelConfig(name="resnet18", resolution_px=32, crop_fraction=1.0)
    label = probes.label(model, 10, 256, 1024)
    decode = known((probes.of_images("decode", 1024, 32), Rate(100.0, "measured", "")))
    assert estimate(label, Device("paper", 1e15, 80e9), decode, nets, 2).per_s == 600.0
    measured = decode | known((evaluate(32), Rate(25.0, "measured", "")))
    assert estimate(label, HERE, measured, nets, 2).per_s == pytest.approx(20.0)


def test_operations_of_an_image() -> None:
    """A step: forward and twice that back. FGSM: 6 forward passes and one gradient; PGD-10: one and ten."""
    suite = Adversarial()
    assert flops_each(evaluate(32), COST) == 2e9
    assert flops_each(probes.attack(ModelConfig(name="resnet18"), 10, 256, suite), COST) == (7 + 3 * 11) * 2e9
    without_pgd = suite.model_copy(update={"pgd_epsilon": None})
    assert flops_each(probes.attack(ModelConfig(name="resnet18"), 10, 256, without_pgd), COST) == (6 + 3) * 2e9


def test_an_unknown_device_is_an_error() -> None:
    assert published("h200").memory_bytes == 141e9
    with pytest.raises(ConfigurationError, match=r"'H300'.*H200"):
        published("H300")
