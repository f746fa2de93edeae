"""One file per number that the README or a note claims."""

import os

from tasks.slots import SHARING

os.environ |= SHARING | os.environ  # as the workers have it; read when torch is imported
