"""Devices as they are published, for plans on paper: what a net attains of them is assumed, and said so."""

from dataclasses import dataclass

from noisystudent_core.errors import ConfigurationError


@dataclass(frozen=True)
class Device:
    """One device: its peak, its memory, and the CPU cores that feed it."""

    name: str
    peak_flops: float  # a second; bfloat16 with float32 sums, dense; of a CPU float32, all its cores
    memory_bytes: float
    num_cores: int = 12  # beside each device, which decode for it
    is_here: bool = False  # this machine's: what was measured holds

    @property
    def is_cpu(self) -> bool:
        """Whether nets run where images are decoded, one after the other."""
        return self.name.endswith("CPU")


GB = 1e9
PUBLISHED = {  # data sheets: NVIDIA, dense bfloat16; Google Cloud, a TPU v3 chip (two cores) has 123 TFLOPS
    "H200": Device("H200", 989e12, 141 * GB),
    "H100": Device("H100", 989e12, 80 * GB),
    "A100": Device("A100", 312e12, 80 * GB),
    "L4": Device("L4", 121e12, 24 * GB),
    "V100": Device("V100", 125e12, 32 * GB),
    "T4": Device("T4", 65e12, 16 * GB),
    "TPU v3 core": Device("TPU v3 core", 61.5e12, 16 * GB),
}
# shares of the peak; depthwise convolutions are bound by memory. The paper's 6 days of L2 on 2,048 cores are 11%
UTILISATION = {"efficientnet": 0.1, "mobilenetv3": 0.05, "vision_transformer": 0.35}
OTHER_UTILISATION = 0.2
CORE_FLOPS = 40e9  # of a CPU core, float32, where nothing is measured
CPU_UTILISATION = 0.4


def published(name: str) -> Device:
    """A device by its name; raises `ConfigurationError` for one that is not in the list."""
    found = {known.lower(): device for known, device in PUBLISHED.items()}.get(name.lower())
    if found is None:
        raise ConfigurationError(f"--device {name!r}: must be one of {', '.join(PUBLISHED)}; leave it out for this one")
    return found


def utilisation(device: Device, family: str) -> float:
    """The share of a device's peak that nets of a family are assumed to attain."""
    return CPU_UTILISATION if device.is_cpu else UTILISATION.get(family, OTHER_UTILISATION)
