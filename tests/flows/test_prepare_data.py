"""The flow prepare-data on a Prefect server: sets, their inspection as artifacts, and the command that goes on."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.prepare_data import prepare_data
from noisystudent_core.errors import SourceError
from noisystudent_core.storage.manifest import Artifact
from tasks import servers
from tasks.hooks import go_on_command
from tests.data.written import Given, write_folders
from tests.flows.world import artifacts

Picture = Callable[..., bytes]
GIVEN = {"validation_share": 0.34, "labelled_per_class": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, picture: Picture) -> Path:
    found = tmp_path_factory.mktemp("prepare")
    given = [Given(f"{number:02d}", picture(number, number % 2), number % 2) for number in range(12)]
    write_folders(found / "tree", given, ("cat", "dog"))
    return found


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    named = {"NOISY_STUDENT_HOME": str(folder / "home"), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    with pytest.MonkeyPatch.context() as patch, servers.temporary_prefect_server(folder / "home") as url:
        for name, value in (named | {"PREFECT_API_URL": url}).items():
            patch.setitem(os.environ, name, value)
        with temporary_settings({PREFECT_API_URL: url}):
            yield url


@pytest.fixture(scope="module")
def sets(folder: Path, server: str) -> dict[str, Any]:
    given: Any = {**GIVEN, "sources": [str(folder / "tree")], "out": str(folder / "out")}
    return prepare_data(**given)  # type: ignore[return-value]


def flow_run() -> FlowRun:
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(limit=1)[0]


def test_every_side_is_a_set_that_the_next_flow_takes(folder: Path, sets: dict[str, Any]) -> None:
    assert sets == {name: str(folder / "out" / name) for name in ("labelled", "validation", "unlabelled")}
    assert [Artifact.open(url, "images").manifest.num_rows for url in sets.values()] == [4, 4, 4]


def test_the_inspection_is_an_artifact_and_a_page(folder: Path, sets: dict[str, Any]) -> None:
    (shown,) = artifacts(flow_run(), "inspection")
    assert "| cat   |        2 |          2 |" in shown.data
    page = folder / "out" / "inspection.html"
    assert shown.data.endswith(f"With charts and pictures: `{page}`\n")
    assert "labelled, cat: 2 images" in page.read_text()


def test_the_command_line_goes_on(folder: Path, sets: dict[str, Any]) -> None:
    words = go_on_command(prepare_data, flow_run()).split()
    assert words[:4] == ["noisy-student", "prepare", str(folder / "tree"), str(folder / "out")]
    assert sorted(words[4:]) == sorted(["--labelled-per-class", "2", "--validation-share", "0.34"])


def test_a_source_that_is_not_there_is_named_before_anything_starts(folder: Path, server: str) -> None:
    with pytest.raises(SourceError, match="nowhere: does not exist"):
        prepare_data(sources=[str(folder / "nowhere")], out=str(folder / "nothing"))
    assert not (folder / "nothing").exists()
