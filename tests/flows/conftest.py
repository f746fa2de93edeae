"""A Prefect server for all flows that are called in the process of the tests, and a worker for those of a module."""

from collections.abc import Iterator

import pytest

from tasks import servers
from tests.flows.world import KeptEngine


@pytest.fixture(scope="session")
def prefect_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with servers.temporary_prefect_server(tmp_path_factory.mktemp("prefect")) as url:
        yield url


@pytest.fixture(scope="module")
def kept_engine() -> Iterator[KeptEngine]:
    engine = KeptEngine()
    yield engine
    engine.end()
