"""Stages are imported when they are called: what takes images in has neither a net nor PyTorch in memory."""

import subprocess
import sys
from importlib import import_module

from noisystudent_core import stages

TAKE_IN = """
import sys
from noisystudent_core import stages, worker
from noisystudent_core.config import IngestConfig, PrepareConfig
stages.prepare(PrepareConfig(ingest=IngestConfig(num_classes=3)), {"source": sys.argv[1]}, sys.argv[2])
print(sorted({"torch", "torchvision", "timm", "polars"} & set(sys.modules)))
"""


def test_images_are_taken_in_without_pytorch(sources: dict[str, str], root: str) -> None:
    command = [sys.executable, "-c", TAKE_IN, sources["labelled"], root]  # PNG and JPEG by turns
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_stage_is_its_function_however_its_module_was_imported() -> None:
    for name in stages.__all__:
        assert callable(getattr(stages, name))
    module = import_module("noisystudent_core.stages.fit")
    assert stages.fit is module.fit
    assert not hasattr(stages, "not_there")
