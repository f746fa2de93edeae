"""The services of compose.yaml by hand, on a real PostgreSQL and a real Redis: the deployment run to its table."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import redis

from noisystudent_core.recipes import EXAMPLES
from tests.deployments.machine import SECRETS, all_services, as_postgres, program

MISSING = [name for name in ("postgres", "redis-server") if program(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (see .ci/run)")

SIZES = {"labelled": 60, "unlabelled": 200, "validation": 60, "test": 60}
# one student of few images: what is tested is where the run is, not what it measures
PARAMETERS = {
    "shrink": 0.01,
    "threshold": 0.0,
    "num_images_per_class": 10,
    "num_iterations": 1,
    "overrides": {"robustness": {}, "baselines": False},
}


def test_deployment_runs_on_postgresql_redis_and_s3(tmp_path: Path, s3_environment: Mapping[str, str]) -> None:
    with all_services(tmp_path, s3_environment, first=["buckets"]) as (machine, query):
        messages = redis.Redis(port=machine.ports["redis"], password=SECRETS["REDIS_PASSWORD"])
        prefect, mlflow = machine.url("prefect"), machine.url("mlflow")
        assert machine.ask(f"{prefect}/api/flow_runs/count", body={}) == 401
        assert machine.ask(f"{mlflow}/api/2.0/mlflow/registered-models/search") == 401

        given = [f"{name}={json.dumps(value)}" for name, value in (PARAMETERS | few_digits(tmp_path)).items()]
        words = [word for each in given for word in ("--param", each)]
        machine.run("worker", "prefect", "deployment", "run", "noisy-student/iterate", *words, "--watch")

        asked = {"artifacts": {"key": {"any_": ["iterations"]}}}
        (table,) = machine.ask(f"{prefect}/api/artifacts/filter", SECRETS["PREFECT_AUTH"], asked)
        rows = json.loads(table["data"])
        assert [row["iteration"] for row in rows] == [0, 1]
        assert all(0 < row["top1"] <= 100 for row in rows)
        assert query("prefect", "SELECT state_type, work_queue_name FROM flow_run") == [("COMPLETED", "gpu")]
        assert query("prefect", "SELECT count(*) FROM events")[0][0] > 100
        assert messages.dbsize() > 0  # pyright: ignore[reportOperatorIssue]

        admin = f"admin:{SECRETS['MLFLOW_PASSWORD']}"
        models = machine.ask(f"{mlflow}/api/2.0/mlflow/registered-models/search", admin)["registered_models"]
        assert len(models) == 1
        assert query("mlflow", "SELECT count(*) FROM metrics WHERE key = 'eval/top1'")[0][0] >= 2
        assert query("mlflow_auth", "SELECT username FROM users") == [("admin",)]
        assert query("mlflow", "SELECT DISTINCT left(artifact_location, 17) FROM experiments") == [
            ("mlflow-artifacts:",)
        ]


def few_digits(folder: Path) -> dict[str, str]:
    """Every so many rows of examples/digits, and where they are."""
    for split, size in SIZES.items():
        whole = pq.read_table(EXAMPLES / "digits" / f"{split}.parquet")
        pq.write_table(whole.take(list(range(0, len(whole), len(whole) // size))), folder / f"{split}.parquet")
    return {split: str(folder / f"{split}.parquet") for split in SIZES}


def test_postgresql_is_not_run_by_root() -> None:
    given = as_postgres(["id", "-u"])
    assert (given[0] == "setpriv") == (os.geteuid() == 0)
