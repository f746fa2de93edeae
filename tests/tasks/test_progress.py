"""Names of artifacts, as Prefect takes them. What the artifacts show: flows/test_noisy_student."""

import pytest
from prefect.client.schemas.actions import ArtifactCreate

from tasks.progress import artifact_key


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("iterations", "iterations"),
        ("label by teacher 1", "label-by-teacher-1"),
        ("evaluate student 2 on validation", "evaluate-student-2-on-validation"),
        ("Fit: (B0), 50%", "fit-b0-50"),
    ],
)
def test_key_is_one_that_prefect_takes(name: str, key: str) -> None:
    assert artifact_key(name) == key
    assert ArtifactCreate(key=key).key == key


def test_prefect_refuses_what_is_replaced() -> None:
    with pytest.raises(ValueError, match="key"):
        ArtifactCreate(key="label by teacher 1")
