"""The child process that runs stages: `python -m noisystudent_core.worker`.

Requests arrive as JSON lines on standard input: {"call", "config", "inputs", "root", "arguments"}. Events leave as JSON
lines on the standard output's descriptor, each request's last one being {"event": "result"} or {"event": "error"};
whatever else is printed goes to standard error. The process ends with its parent: on a closed input, and by signal.
After a SIGTERM a fit saves its state first.
"""

import json
import os
import sys
import traceback
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from queue import SimpleQueue
from threading import Thread
from typing import Any, TextIO

from noisystudent_core import interruption
from noisystudent_core.config import NoisyStudentConfig, evaluation, settings
from noisystudent_core.config import data as data_settings
from noisystudent_core.events import Events
from noisystudent_core.storage.manifest import Manifest

STAGES, PLANNING = "noisystudent_core.stages", "noisystudent_core.planning.plan"  # imported when they are called
CALLS: dict[str, tuple[Any, str]] = {  # functions, their settings and where they are
    "check": (NoisyStudentConfig, STAGES),
    "prepare": (data_settings.PrepareConfig, STAGES),
    "exclusions": (data_settings.ExclusionsConfig, STAGES),
    "plan_fingerprint": (data_settings.FingerprintConfig, STAGES),
    "fingerprint_group": (data_settings.FingerprintConfig, STAGES),
    "fingerprint": (data_settings.FingerprintConfig, STAGES),
    "plan_inspect_parts": (data_settings.InspectPartsConfig, STAGES),
    "inspect_parts_group": (data_settings.InspectPartsConfig, STAGES),
    "inspect_parts": (data_settings.InspectPartsConfig, STAGES),
    "inspect": (data_settings.InspectConfig, STAGES),
    "fit": (settings.FitConfig, STAGES),
    "fix_resolution": (settings.FixResolutionConfig, STAGES),
    "adopt": (settings.AdoptConfig, STAGES),
    "plan_predict": (settings.PredictConfig, STAGES),
    "predict_group": (settings.PredictConfig, STAGES),
    "predict": (settings.PredictConfig, STAGES),
    "select": (settings.SelectConfig, STAGES),
    "materialise": (settings.MaterialiseConfig, STAGES),
    "corrupt": (evaluation.CorruptConfig, STAGES),
    "evaluate": (evaluation.EvaluateConfig, STAGES),
    "report": (evaluation.ReportConfig, STAGES),
    "report_model": (evaluation.ModelReportConfig, STAGES),
    "plan": (NoisyStudentConfig, PLANNING),
}


def main() -> None:
    """Serve requests until the input closes."""
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # a library that prints does not disturb the events
    interruption.die_with_parent()
    interruption.listen()
    _say(events, "ready")
    for request in _requests():
        try:
            _say(events, "result", value=serve(request, partial(_say, events)))
        except Exception as error:
            traceback.print_exc()
            _say(events, "error", type=type(error).__name__, message=str(error))


def serve(request: dict[str, Any], events: Events) -> Any:
    """Carry out one request, in whatever process, and return its JSON result; None for an artifact."""
    config_class, module = CALLS[request["call"]]
    call = getattr(import_module(module), request["call"])
    config = config_class.model_validate(request["config"])
    result = call(config, request["inputs"], request["root"], events, **request["arguments"])
    return None if isinstance(result, Manifest) else result


def _say(events: TextIO, event: str, **fields: Any) -> None:
    events.write(json.dumps({"event": event, **fields}) + "\n")


def _requests() -> Iterator[dict[str, Any]]:
    """Requests as they come; a thread reads them, so that the parent's end is noticed in the middle of a stage."""
    queue: SimpleQueue[dict[str, Any]] = SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            queue.put(json.loads(line))
        os._exit(0)  # the parent closed its end: nothing computed from now on has a reader

    Thread(target=read, daemon=True).start()
    while True:
        yield queue.get()


if __name__ == "__main__":
    main()
