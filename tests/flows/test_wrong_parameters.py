"""Wrong parameters end a run before its first stage, with words that say what to do."""

from pathlib import Path
from typing import Any

import pytest

from flows.noisy_student import noisy_student
from noisystudent_core.errors import ConfigurationError, RootError, SourceError


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
