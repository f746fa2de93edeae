"""Stages in memory, and the four sources taken in there."""

from collections.abc import Callable

import pytest

from tests.stages.inspected import Sets
from tests.stages.small import Small


@pytest.fixture
def small(memory_root: str) -> Small:
    return Small(memory_root)


@pytest.fixture
def data(small: Small, write_sources: Callable[[str], dict[str, str]]) -> dict[str, str]:
    return small.prepare_all(write_sources(small.root))


@pytest.fixture
def sets(memory_root: str, write_source: Callable[..., str]) -> Sets:
    return Sets(memory_root, write_source)
