"""SplitMix64 (Steele, Lea, Flood 2014) on int64: what all counted draws are made of."""

from torch import Tensor

INCREMENT = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


def mix(state: Tensor) -> Tensor:
    """The finaliser, in place, of int64 of any shape."""
    for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
        state.bitwise_xor_(shift_right(state, shift)).mul_(multiplier)
    return state.bitwise_xor_(shift_right(state, 31))


def shift_right(state: Tensor, bits: int) -> Tensor:
    """Logical shift: torch shifts int64 arithmetically, so the copies of the sign bit are masked off."""
    return (state >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def wrapped(value: int) -> int:
    """Bring a Python integer into the signed 64-bit range, modulo 2^64."""
    return (value + 2**63) % 2**64 - 2**63
