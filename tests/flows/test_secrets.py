"""An audit: secrets given in any way are refused, and stand in nothing that a run leaves."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.evaluate_model import evaluate_model
from flows.noisy_student import noisy_student
from noisystudent_core.errors import ConfigurationError
from tasks import servers
from tasks.services import SOURCE

SECRET = "hush19Zq"
ADDRESSES = {
    "of a bucket": f"s3://KEY:{SECRET}@bucket/x",
    "of a server": f"https://user:{SECRET}@host/x.parquet",
    "signed": f"https://host/x.parquet?X-Amz-Signature={SECRET}",
    "signed the old way": f"https://host/x.parquet?AWSAccessKeyId=KEY&Signature={SECRET}",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    with servers.temporary_prefect_server(folder) as url, pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "NOISY_STUDENT_HOME": str(folder),
            "PREFECT_API_URL": url,
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
            "PYTHONPATH": str(SOURCE),
        }.items():
            patch.setenv(name, value)
        with temporary_settings({PREFECT_API_URL: url}):
            yield folder


def given(where: str, url: str) -> dict[str, Any]:
    return {"overrides": {where: url}} if "." in where else {where: url}


@pytest.mark.parametrize("url", ADDRESSES.values(), ids=ADDRESSES)
@pytest.mark.parametrize("where", ["root", "labelled", "test", "teacher.checkpoint", "teacher.model.weights"])
def test_a_run_refuses_them_before_anything_else(
    root: str, sources: dict[str, str], where: str, url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    parameters: Any = {**sources, "root": root, **given(where, url)}
    with pytest.raises(ConfigurationError, match="environment or profile") as error:
        noisy_student.fn(**parameters)
    assert SECRET not in str(error.value) + "".join(capfd.readouterr())
    assert not Path(root).exists()


@pytest.mark.parametrize("where", ["checkpoint", "images"])
def test_so_does_a_measurement(root: str, where: str) -> None:
    parameters: Any = {"checkpoint": "timm:test_resnet", "images": "/nowhere", "root": root, where: ADDRESSES["signed"]}
    with pytest.raises(ConfigurationError, match="environment or profile") as error:
        evaluate_model.fn(**parameters)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("option", ["--root", "--labelled", "--set"])
def test_nothing_that_a_command_leaves_repeats_them(home: Path, option: str) -> None:
    for url in ADDRESSES.values():
        words = [option, f"robustness.corruptions.frost={url}" if option == "--set" else url]
        done = subprocess.run(
            [sys.executable, "-m", "flows", "run", *words], cwd=home, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert "environment or profile" in done.stderr
        assert SECRET not in done.stdout + done.stderr
        break  # one process of each kind: the addresses are tried above


def test_a_run_that_was_asked_for_otherwise_leaves_them_in_no_log_artifact_or_name(home: Path, root: str) -> None:
    with pytest.raises(ConfigurationError, match="environment or profile"):
        evaluate_model(checkpoint=ADDRESSES["of a bucket"], images="/nowhere", root=root)
    servers._send_queued()
    left = []
    with sqlite3.connect(f"file:{home}/prefect.db?mode=ro", uri=True) as database:
        for (table,) in database.execute("select name from sqlite_master where type = 'table'").fetchall():
            for row in database.execute(f'select * from "{table}"'):
                left += [table] * (SECRET in json.dumps([str(value) for value in row]))
    assert set(left) <= {"flow_run"}  # its parameters, which the caller gave to Prefect before us
    assert not (home / "mlflow.db").exists()
