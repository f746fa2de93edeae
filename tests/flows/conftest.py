"""A Prefect server and a worker for all flows that are called in the process of the tests."""

from collections.abc import Iterator

import pytest

from tasks import servers
from tests.flows.world import KeptEngine


@pytest.fixture(scope="package")
def prefect_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with servers.temporary_prefect_server(tmp_path_factory.mktemp("prefect")) as url:
        yield url


@pytest.fixture(scope="package")
def kept_engine() -> Iterator[KeptEngine]:
    engine = KeptEngine()
    yield engine
    engine.end()
