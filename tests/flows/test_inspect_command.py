"""`noisy-student inspect` on what was prepared and on other sources, and the inspection at the end of `prepare`."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from flows import cli, inspect_command, stage_commands
from noisystudent_core.errors import BadImagesError, ConfigurationError, DataError, LabelError, SourceError
from tasks.engines import LocalEngine
from tests.data.written import Given, write_folders, write_tars

Picture = Callable[..., bytes]
WriteSource = Callable[..., str]
NAMES = ("cat", "dog")
PATHS = {"tree", "out", "flat", "other", "nowhere", "empty", "bad.parquet", "numbers.parquet", "test.parquet"}


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    shared = LocalEngine()
    yield shared
    shared.close()


@pytest.fixture(autouse=True)
def one_worker_for_all(monkeypatch: pytest.MonkeyPatch, engine: LocalEngine, tmp_path: Path) -> None:
    """Each command starts a worker of its own, which takes seconds; here they share one."""

    @contextmanager
    def opened(name: str, run_id: str) -> Iterator[LocalEngine]:
        yield engine

    for module in (stage_commands, inspect_command):
        monkeypatch.setattr(module, "opened", opened)
    monkeypatch.setenv("NOISY_STUDENT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def command(*words: str) -> Result:
    """The shared worker was started elsewhere: `PATHS` are given to it in full."""
    return CliRunner().invoke(cli.app, [str(Path(word).absolute()) if word in PATHS else word for word in words])


def inspected(*words: str) -> dict[str, Any]:
    done = command("inspect", *words, "--json", "numbers.json")
    assert done.exit_code == 0, done.output
    return json.loads(Path("numbers.json").read_text())


@pytest.fixture
def given(picture: Picture) -> list[Given]:
    return [Given(f"{number:02d}", picture(number, number % 2), number % 2) for number in range(12)]


def test_prepare_ends_with_an_inspection(given: list[Given]) -> None:
    write_folders(Path("tree"), given, NAMES)
    done = command("prepare", "tree", "out", "--validation-share", "0.34", "--labelled-per-class", "2")
    assert done.exit_code == 0, done.output
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["4", "4", "4"]
    assert done.stderr.splitlines()[-1] == f"inspected: {Path('out/inspection.html').resolve()}"
    assert "<h1>What is in the images</h1>" in Path("out/inspection.html").read_text()


def test_prepare_leaves_the_inspection_out_on_demand(given: list[Given]) -> None:
    write_folders(Path("tree"), given, NAMES)
    assert command("prepare", "tree", "out", "--no-inspect").exit_code == 0
    assert not Path("out/inspection.html").exists()


def test_what_was_prepared_is_inspected_once(
    given: list[Given], engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folders(Path("tree"), given, NAMES)
    command("prepare", "tree", "out", "--validation-share", "0.34")
    monkeypatch.setattr(engine, "run", lambda *words, **more: pytest.fail("a worker was asked"))
    found = inspected("out")
    assert {name: counts["class_counts"] for name, counts in found["sets"].items()} == {
        "labelled": {"cat": 4, "dog": 4},
        "validation": {"cat": 2, "dog": 2},
    }


def test_a_single_artifact(given: list[Given]) -> None:
    write_folders(Path("tree"), given, NAMES)
    command("prepare", "tree", "out", "--labelled", "--no-inspect")
    assert inspected("out")["sets"]["images"]["class_counts"] == {"cat": 6, "dog": 6}


def test_a_source_that_names_its_classes(given: list[Given]) -> None:
    write_folders(Path("tree"), given, NAMES)
    done = command("inspect", "tree", "--out", "page.html")
    assert done.exit_code == 0, done.output
    assert "| cat   |      6 |" in done.stdout
    assert "images, cat: 6 images" in Path("page.html").read_text()


def test_sources_without_names_are_counted_without_classes(given: list[Given]) -> None:
    tars = write_tars(Path("tars").absolute(), given, NAMES)
    found = inspected(tars, "--index-only")["sets"]["images"]
    assert (found["num_images"], found["class_counts"]) == (12, {})
    assert inspected(tars, "--num-classes", "2")["sets"]["images"]["class_counts"] == {"0": 6, "1": 6}


def test_images_in_no_folder_of_a_class(given: list[Given]) -> None:
    for image in given:
        Path("flat").mkdir(exist_ok=True)
        Path("flat", f"{image.name}.png").write_bytes(image.data)
    found = inspected("flat")["sets"]["images"]
    assert (found["num_images"], found["class_counts"]) == (12, {})


def test_damage_is_reported_not_refused(picture: Picture, write_source: WriteSource) -> None:
    source = write_source("bad.parquet", [b"words", picture(1), picture(2)[:100]])
    assert inspected(source)["sets"]["images"]["drops"] == {"not_an_image": 1, "truncated": 1}


def test_leaks_end_with_an_error_unless_allowed(
    given: list[Given], picture: Picture, write_source: WriteSource
) -> None:
    write_folders(Path("tree"), given, NAMES)
    command("prepare", "tree", "out", "--labelled", "--no-inspect")
    test = write_source("test.parquet", [given[0].data, picture(99)], [0, 1])
    words = ("inspect", "--labelled", "out", "--test", test, "--num-classes", "2")
    done = command(*words, "--out", "page.html")
    assert done.exit_code == 1 and isinstance(done.exception, DataError)
    assert "test: 1 image also in labelled" in str(done.exception)
    assert "- **error**: test: 1 image also in labelled" in done.stdout
    assert Path("page.html").exists()
    assert command(*words, "--allow-leaks").exit_code == 0


def test_sets_whose_classes_differ_are_refused(given: list[Given]) -> None:
    write_folders(Path("tree"), given, NAMES)
    write_folders(Path("other"), given[6:], ("dog", "emu"))
    done = command("inspect", "--labelled", "tree", "--test", "other")
    assert done.exit_code == 1 and isinstance(done.exception, LabelError)
    words = "test: class 0 is 'dog', of labelled 'cat': must be the same in the same order; take both in by the same"
    assert str(done.exception).startswith(words)
    command("prepare", "tree", "out", "--labelled", "--no-inspect")
    done = command("prepare", "other", "flat", "--classes-of", str(Path("out").absolute()), "--no-inspect")
    assert done.exit_code == 1 and "has label 'emu'; must be 0 to 1 (num_classes=2)" in str(done.exception)


def test_a_source_that_changed_since_it_was_indexed(picture: Picture, write_source: WriteSource) -> None:
    write_source("test.parquet", [picture(1), picture(2)])
    assert command("prepare", "test.parquet", "out", "--index-only", "--no-inspect").exit_code == 0
    write_source("test.parquet", [picture(1), picture(2), picture(3)])
    done = command("inspect", "out")
    assert done.exit_code == 1 and isinstance(done.exception, BadImagesError)
    assert "2 of 2 images have no result" in str(done.exception)
    assert "test.parquet: changed since it was indexed (" in str(done.exception)
    assert "prepare the source again, or restore the file" in str(done.exception)


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ((), ConfigurationError, "nothing to inspect; give the URL of images, or --labelled"),
        (("nowhere",), SourceError, "nowhere: does not exist"),
        (("empty",), SourceError, "empty: no *.parquet file there"),
        (("--labelled", "numbers.parquet"), LabelError, "say how many classes: num_classes"),
        (("numbers.parquet", "--near-radius", "9"), ConfigurationError, "near_radius=9: Input should be less than"),
        (("other",), SourceError, "holds predictions, must hold images"),
    ],
)
def test_errors_are_readable(
    words: tuple[str, ...], error: type[Exception], message: str, picture: Picture, write_source: WriteSource
) -> None:
    Path("empty").mkdir()
    write_source("numbers.parquet", [picture(1), picture(2)], [0, 1])
    assert command("prepare", "numbers.parquet", "other", "--no-inspect").exit_code == 0
    manifest = Path("other", "manifest.json")
    manifest.write_text(manifest.read_text().replace('"kind": "images"', '"kind": "predictions"'))
    done = command("inspect", *words)
    assert done.exit_code == 1
    assert isinstance(done.exception, error) and message in str(done.exception), done.exception
