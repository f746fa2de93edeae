"""Each stage of Algorithm 1 as a function (config, inputs, root, events) -> Manifest, resumable by itself.

`inputs` maps names to artifact URLs. A finished stage returns its manifest at once (`storage.stage`), and a part that
is already there is never computed again.
"""

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
