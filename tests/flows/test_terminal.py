"""Progress of a stage: lines in a log, a bar on a terminal."""

import io

import pytest
from rich.console import Console

from flows import terminal


@pytest.mark.parametrize(
    ("is_terminal", "found"), [(False, ["1,000 of 3,000 images", "3,000 of 3,000 images"]), (True, [])]
)
def test_a_log_has_lines_and_not_many(is_terminal: bool, found: list[str]) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=is_terminal, width=100)
    with terminal.followed("predict", console) as events:
        for done in (1000, 2000, 3000):
            events("progress", done=done, total=3000, unit="images")
        events("message", text="one image is damaged")
        events("metrics", step=1, values={})
    printed = file.getvalue()
    assert "one image is damaged" in printed
    assert [line for line in printed.splitlines() if line in found] == found
    assert ("━" in printed) == is_terminal and ("3000/3000" in printed) == is_terminal
    assert ("of 3,000" in printed) != is_terminal
