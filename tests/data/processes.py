"""Which decoding processes there are, as Linux tells."""

from pathlib import Path

from noisystudent_core.data.decoders import Decoders


def processes(decoders: Decoders) -> list[int]:
    """The one that loaded the libraries, and those it divided itself into; none where this process decodes."""
    if decoders._parent is None:
        return []
    files = Path(f"/proc/{decoders._parent.pid}/task").glob("*/children")
    return [decoders._parent.pid, *(int(child) for file in files for child in file.read_text().split())]


def are_gone(pids: list[int]) -> bool:
    """Whether none runs any more; one that nobody has asked after (Z) does not."""
    for pid in pids:
        status = Path(f"/proc/{pid}/stat")
        if status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z":
            return False
    return True
