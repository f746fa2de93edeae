"""One stage of selection in a process of its own, as a worker has it, for `benchmarks.select`.

What is imported is in the memory that is told, but not in the time.
"""

import json
import resource
import sys
import time

from noisystudent_core import config as settings
from noisystudent_core import stages

STAGES = {"select": settings.SelectConfig, "materialise": settings.MaterialiseConfig}


def main(call: str, config: str, inputs: dict[str, str], out: str) -> None:
    """Run the stage and print seconds on the clock and of all cores, peak memory, and rows written."""
    started, before_s = time.perf_counter(), time.process_time()
    settings_of_stage = STAGES[call].model_validate_json(config)
    manifest = getattr(stages, call)(settings_of_stage, inputs, out, out=out)
    found = {"wall_s": time.perf_counter() - started, "cpu_s": time.process_time() - before_s}
    found["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps({**found, "num_rows": manifest.num_rows}))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
