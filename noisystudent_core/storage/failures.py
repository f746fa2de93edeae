"""What went wrong with which part, so that a part that fails again and again is set aside and costs no other."""

import json
import posixpath
from collections import defaultdict

from noisystudent_core.storage.filesystem import Folder

LIMIT = 3  # failures of a part, after which it is set aside


class Failures:
    """Numbered notes in a folder, one a failure: whoever works on a part writes them, supervisors of the dead too."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def reasons(self) -> dict[str, list[str]]:
        """Why each part that failed did, the first failure first."""
        found: dict[str, list[str]] = defaultdict(list)
        for name in sorted(self.folder.sizes(), key=lambda name: (len(name), name)):
            if not name.startswith("."):  # those are on their way
                found[posixpath.splitext(name)[0]].append(json.loads(self.folder.read(name))["reason"])
        return dict(found)

    def add(self, part: str, reason: str) -> int:
        """Note a failure of `part`, and return how many there are now."""
        note = json.dumps({"reason": reason}).encode()
        number = 1
        while not self.folder.publish(f"{part}.{number}", note):
            number += 1
        return number

    def clear(self) -> None:
        """Forget all of them: every part may be tried again."""
        self.folder.remove_all()
