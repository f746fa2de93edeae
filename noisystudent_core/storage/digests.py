"""The one hash of this project."""

import hashlib
import json
from typing import Any


def digest(data: bytes) -> str:
    """BLAKE2b of 16 bytes, in hexadecimal."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def digest_of(value: Any) -> str:
    """Digest of plain values (JSON, sorted keys)."""
    return digest(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())
