"""Under CI a skipped test is a failure, but for those marked `gpu`: what is skipped silently is not tested."""

import os
from collections.abc import Generator
from typing import Any

import pytest

REFUSED = "skipped under CI, where only tests marked `gpu` may be: "


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the skip of a test into its failure; an expected failure is no skip."""
    report = yield
    if not hasattr(report, "wasxfail") and item.get_closest_marker("gpu") is None:
        _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a file that is skipped whole."""
    report = yield
    _refuse_skip(report)
    return report


def _refuse_skip(report: Any) -> None:
    if report.skipped and os.environ.get("CI"):
        report.outcome, report.longrepr = "failed", REFUSED + str(report.longrepr[2])
