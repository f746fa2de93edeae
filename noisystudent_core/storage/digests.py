"""The one hash of this project, but for the identity of images (`data.ingest.image_id`)."""

import hashlib
import json
from typing import Any


def digest(data: bytes) -> str:
    """The first 16 bytes of SHA-256, in hexadecimal: processors have instructions for it, as for no other."""
    return hashlib.sha256(data).hexdigest()[:32]


def digest_of(value: Any) -> str:
    """Digest of plain values (JSON, sorted keys)."""
    return digest(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())
