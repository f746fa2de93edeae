"""The benchmark's pieces: what counts as different, and which processes belong to a run."""

import os
import subprocess
import sys
from dataclasses import replace

from benchmarks.deployed import Outcome, processes_of, scratch, settle
from benchmarks.operation import difference, in_mlflow

WHOLE = Outcome(
    table="t",
    digests={"a": "1", "b": "2"},
    values={("", "eval/top1", 0): 1, ("", "eval/top1", 1): 1, ("fit", "train/loss", 5): 1},
    num_unfinished=0,
    num_models=1,
)


def test_whatever_differs_is_said() -> None:
    assert difference(WHOLE, WHOLE) == ""
    assert difference(replace(WHOLE, table="u"), WHOLE) == ", the table"
    other = replace(WHOLE, digests={"a": "0", "c": "3"})
    assert difference(other, WHOLE) == ", 2 artifacts lack or differ, 1 more"


def test_what_mlflow_lacks_or_has_twice_is_said() -> None:
    assert in_mlflow(WHOLE, WHOLE) == ("0 1", "all 3")
    values = {("", "eval/top1", 0): 1, ("fit", "train/loss", 5): 2}
    poor = replace(WHOLE, values=values, num_unfinished=1, num_models=0)
    assert in_mlflow(poor, WHOLE) == ("0", "1 of 3 LACKING, 1 twice, 1 runs not ended, 0 models")


def test_no_process_of_a_run_outlives_the_benchmark() -> None:
    with scratch(keep=False) as folder:
        marks = {"PREFECT__FLOW_RUN_ID": str(folder), "NOISY_STUDENT_FOLDER": str(folder)}
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        orphan = subprocess.Popen(command, env=os.environ | marks, start_new_session=True)
        assert settle(lambda: processes_of(str(folder)) == [orphan.pid])
    assert orphan.wait(10) < 0
    assert not folder.exists()
