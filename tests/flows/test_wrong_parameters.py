"""Wrong parameters end a run before its first stage, with words that say what to do."""

import time
from pathlib import Path
from typing import Any

import pytest

from flows.noisy_student import noisy_student
from noisystudent_core.errors import AccessError, ConfigurationError, RootError, SourceError
from noisystudent_core.storage.s3 import S3
from tasks.processes import free_port
from tests.storage.faulty_s3 import refusing_s3


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"recipe": "imagenet"}, ConfigurationError, "recipe 'imagenet': must be one of digits, finetune"),
        ({"threshold": 1.0}, ConfigurationError, r"selection\.threshold=1\.0: Input should be less than 1"),
        (
            {"unlabelled_ratio": 0.5},
            ConfigurationError,
            r"unlabelled_ratio=0\.5: Input should be greater",
        ),
        ({"num_iterations": 0}, ConfigurationError, "num_iterations=0: must be >= 1"),
        ({"overrides": {"selection.treshold": 0.1}}, ConfigurationError, "no setting named 'treshold' there; there is"),
        (
            {"overrides": {"teacher.train.steps": "many"}},
            ConfigurationError,
            "teacher.train.steps='many': .* valid integer",
        ),
        ({"engine": "slurm"}, ConfigurationError, "engine 'slurm': must be one of local"),
        ({"test": "nowhere.parquet"}, SourceError, r"nowhere\.parquet: does not exist"),
        ({"root": "/proc/root"}, RootError, "/proc/root.*cannot be written"),
        ({"root": "ftpp://host/root"}, ConfigurationError, "ftpp://host/root: Protocol not known: ftpp"),
    ],
)
def test_wrong_parameters_are_refused_before_any_stage(
    root: str, sources: dict[str, str], parameters: dict[str, Any], error: type[Exception], message: str
) -> None:
    given: Any = {**sources, "root": root, **parameters}
    with pytest.raises(error, match=message):
        noisy_student.fn(**given)
    assert not list(Path(root).rglob("manifest.json"))


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch"])
@pytest.mark.parametrize("parameter", ["root", "labelled"])
def test_credentials_that_a_bucket_refuses_are_told_of_at_once_and_not_repeated(
    root: str, sources: dict[str, str], parameter: str, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(S3, "_cache", {})  # clients know the address that was set as they were made
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "KEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush19Zq")
    with refusing_s3(code) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        given: Any = {**sources, "root": root, parameter: "s3://bucket/folder/*.parquet"}
        started = time.monotonic()
        with pytest.raises((AccessError, SourceError), match="credentials refused") as error:
            noisy_student.fn(**given)
    assert time.monotonic() - started < 5
    assert f"({code}: Not with these.); renew them, or choose others" in str(error.value)
    assert "hush19Zq" not in str(error.value)
    assert not error.value.retryable


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_an_endpoint_with_a_password_is_refused(
    sources: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, f"http://user:hush19Zq@127.0.0.1:{free_port()}")
    given: Any = {**sources, "root": "s3://bucket/root"}
    with pytest.raises(ConfigurationError, match=f"{name}: a URL holds credentials: give them by env") as error:
        noisy_student.fn(**given)
    assert "hush19Zq" not in str(error.value)
