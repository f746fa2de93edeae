"""Each stage of Algorithm 1 as a function (config, inputs, root, events) -> Manifest, resumable by itself.

`inputs` maps names to artifact URLs. A finished stage returns its manifest at once (`storage.stage`), and a part that
is already there is never computed again.

A stage is imported when it is first asked for: what takes images in has no net in memory.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noisystudent_core.stages.adopt import adopt
    from noisystudent_core.stages.check import check
    from noisystudent_core.stages.corrupt import corrupt
    from noisystudent_core.stages.evaluate import evaluate
    from noisystudent_core.stages.exclusions import exclusions
    from noisystudent_core.stages.fingerprint import fingerprint, fingerprint_group, plan_fingerprint
    from noisystudent_core.stages.fit import fit
    from noisystudent_core.stages.fix_resolution import fix_resolution
    from noisystudent_core.stages.inspect import inspect
    from noisystudent_core.stages.inspect_parts import inspect_parts, inspect_parts_group, plan_inspect_parts
    from noisystudent_core.stages.materialise import materialise
    from noisystudent_core.stages.predict import plan_predict, predict, predict_group
    from noisystudent_core.stages.prepare import prepare
    from noisystudent_core.stages.report import report
    from noisystudent_core.stages.report_model import report_model
    from noisystudent_core.stages.select import select

__all__ = [
    "adopt",
    "check",
    "corrupt",
    "evaluate",
    "exclusions",
    "fingerprint",
    "fingerprint_group",
    "fit",
    "fix_resolution",
    "inspect",
    "inspect_parts",
    "inspect_parts_group",
    "materialise",
    "plan_fingerprint",
    "plan_inspect_parts",
    "plan_predict",
    "predict",
    "predict_group",
    "prepare",
    "report",
    "report_model",
    "select",
]


class _Stages(ModuleType):
    """This package: its functions have their modules' names, and the import system would enter the modules."""

    def __getattr__(self, name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = import_module(f"{__name__}.{name.removeprefix('plan_').removesuffix('_group')}")
        return getattr(module, name)

    def __setattr__(self, name: str, value: Any) -> None:
        is_module = isinstance(value, ModuleType) and name in __all__
        super().__setattr__(name, getattr(value, name) if is_module else value)


sys.modules[__name__].__class__ = _Stages
