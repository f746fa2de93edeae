"""The `noisy-student` command: stages one by one, and errors of one paragraph. Its `run`: test_noisy_student."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from flows import cli, stage_commands
from noisystudent_core.data.schemas import EVALUATIONS, PREDICTIONS, from_bytes
from noisystudent_core.recipes import RECIPES, digits
from noisystudent_core.storage.manifest import Artifact
from tasks.engines import LocalEngine
from tests.selections import read_selection
from tests.stages.small import Small


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    shared = LocalEngine()
    yield shared
    shared.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all commands are given."""
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(autouse=True)
def one_worker_for_all(monkeypatch: pytest.MonkeyPatch, engine: LocalEngine, folder: Path) -> None:
    """Each command starts a worker of its own, which takes seconds; here they share one."""

    @contextmanager
    def opened(name: str, run_id: str) -> Iterator[LocalEngine]:
        yield engine

    monkeypatch.setattr(stage_commands, "opened", opened)
    monkeypatch.chdir(folder)


def command(*words: str) -> str:
    """What a command prints to its standard output."""
    done = CliRunner().invoke(cli.app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def table(url: str, schema: Any) -> list[dict[str, Any]]:
    artifact = Artifact.open(url)
    parts = [from_bytes(artifact.read(part), schema, part.path).to_pylist() for part in artifact.manifest.parts]
    return [row for rows in parts for row in rows]


def test_from_sources_to_numbers(sources: dict[str, str], root: str) -> None:
    said = command("prepare", sources["labelled"], "labelled", "--num-classes", "3")
    assert said == "prepare: 12 rows in 1 parts -> labelled\n"
    command("prepare", sources["validation"], "validation", "--num-classes", "3")
    said = command("prepare", sources["unlabelled"], "unlabelled", "--images-per-part", "10")
    assert said == "prepare: 30 rows in 3 parts -> unlabelled\n"

    teacher = Small(root).teacher({"labelled": "labelled", "validation": "validation"})
    command("predict", "--checkpoint", teacher, "--images", "unlabelled", "--out", "predictions")
    assert len(table("predictions", PREDICTIONS)) == 30

    given = ["--predictions", "predictions", "--images", "unlabelled", "--out", "selection"]
    said = command("select", *given, "--per-class", "6", "--threshold", "0", "--seed", "4")
    selection = read_selection("selection")
    assert said.startswith(f"select: {len(selection)} rows in 1 parts, over_target ")
    assert Artifact.open("selection").manifest.config["seed"] == 4

    given = ["--checkpoint", teacher, "--images", "unlabelled", "--selection", "selection", "--out", "pseudo"]
    command("predict", *given, "--distribution")
    assert Artifact.open("pseudo").manifest.num_rows == len(selection)

    lines = command("evaluate", "--checkpoint", teacher, "--images", "validation", "--out", "numbers").splitlines()
    rows = {row["metric"]: row["value"] for row in table("numbers", EVALUATIONS)}
    shown = {metric: value for metric, value in rows.items() if "/" not in metric}
    assert set(shown) == {"top1", "loss", "macro_f1", "ece"}
    assert lines[-4:] == [f"{metric} {value:.4f}" for metric, value in shown.items()]
    assert command("evaluate", "--checkpoint", teacher, "--images", "validation").splitlines()[-2:] == lines[-2:]

    assert command("verify", ".").endswith("artifacts under . are whole\n")
    part = Path("predictions") / Artifact.open("predictions").manifest.parts[0].path
    part.write_bytes(part.read_bytes()[:-1] + b"!")
    done = CliRunner().invoke(cli.app, ["verify", "."])
    assert done.exit_code == 1
    assert f"{part.name} has digest" in done.stderr
    assert str(done.exception).startswith("1 problems in ")


def test_a_finished_stage_is_not_run_again(sources: dict[str, str]) -> None:
    command("prepare", sources["test"], "test", "--num-classes", "3")
    (part,) = Artifact.open("test").manifest.parts
    before = Path("test", part.path).stat().st_mtime_ns
    command("prepare", sources["test"], "test", "--num-classes", "3")
    assert Path("test", part.path).stat().st_mtime_ns == before


def test_recipes_are_listed_and_shown() -> None:
    listed = command("recipes").splitlines()
    assert [line.split()[0] for line in listed] == list(RECIPES)
    assert all(len(line.split()) > 5 for line in listed)
    assert yaml.safe_load(command("recipes", "show", "digits")) == digits().model_dump(mode="json")
    changed = yaml.safe_load(command("recipes", "show", "digits", "--set", "seed=5", "--set", "name=mine"))
    assert (changed["seed"], changed["name"]) == (5, "mine")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prepare", "nowhere", "out"], "nowhere: does not exist; give a folder, a file or a glob"),
        (
            ["prepare", "nowhere", "out", "--num-classes", "1"],
            "num_classes=1: Input should be greater than",
        ),
        (["verify", "nowhere"], "nowhere: no artifact under it; give the root that a run was given"),
        (["recipes", "show", "imagenet"], "recipe 'imagenet': must be one of digits, finetune"),
        (["recipes", "show", "digits", "--set", "seed"], "--set seed: must read key=value, as in seed=1"),
        (
            ["select", "--predictions", "p", "--images", "i", "--out", "o", "--threshold", "1.5"],
            "threshold=1.5: Input should be less than 1",
        ),
        (
            ["predict", "--checkpoint", "nowhere", "--images", "i", "--out", "o"],
            "nowhere: no manifest.json there, so no finished artifact; run the stage that makes it",
        ),
    ],
)
def test_an_error_is_one_paragraph(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["noisy-student", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("noisy-student: ")
    assert message in err
    assert err.count("\n") == 1
    assert not Path("out", "manifest.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipe", "digit"], "recipe 'digit': must be one of digits, finetune"),
        (["--threshold", "1"], r"selection\.threshold=1\.0: Input should be less than 1"),
        (["--set", "seeds=1"], "override 'seeds': no setting named 'seeds' there"),
        (["--num-iterations", "0"], "num_iterations=0: must be >= 1"),
        (["--shrink", "2"], r"shrink=2\.0: must be above 0"),
    ],
)
def test_a_run_is_refused_before_a_server_starts(
    monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.setattr(cli.console, "run_flow", lambda *_: pytest.fail("a server was started"))
    done = CliRunner().invoke(cli.app, ["run", *words])
    assert done.exit_code == 1
    assert re.search(message, str(done.exception)), done.exception


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("pre", {"prepare", "predict"}),
        ("run --recipe cifar10_", {"cifar10_wrn", "cifar10_mismatched"}),
        ("recipes show sv", {"svhn"}),
        ("plan --recipe dig", {"digits"}),
        ("inspect --lab", {"--labelled"}),
    ],
)
def test_a_shell_completes_commands_options_and_recipes(words: str, offered: set[str]) -> None:
    line = f"noisy-student {words}"
    asked = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1), "_NOISY_STUDENT_COMPLETE": "complete_bash"}
    done = CliRunner().invoke(cli.app, [], prog_name="noisy-student", env=asked)
    assert set(done.stdout.split()) == offered


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predct"], "No such command 'predct'. Did you mean 'predict'"),
        (["recipes", "shw"], "No such command 'shw'. Did you mean 'show'?"),
        (["prepare", "--labeled", "a", "b"], "No such option: --labeled"),
        (["prepare"], "Missing argument"),
    ],
)
def test_wrong_usage_has_a_status_of_its_own(words: list[str], message: str) -> None:
    done = CliRunner().invoke(cli.app, words, env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert message in done.stderr


@pytest.mark.parametrize("place", [0, 2, 3])
def test_a_traceback_is_shown_on_demand(monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    monkeypatch.setenv("NOISY_STUDENT_DEBUG", "")
    words = ["recipes", "show", "imagenet"]
    words.insert(place, "--debug")
    monkeypatch.setattr(sys, "argv", ["noisy-student", *words])
    with pytest.raises(ValueError, match="recipe 'imagenet'"):
        cli.main()


def test_a_defect_is_a_paragraph_too_and_has_a_status_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "configure", lambda *_, **__: {}["missing"])
    monkeypatch.setattr(sys, "argv", ["noisy-student", "recipes", "show", "digits"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 70
    assert capfd.readouterr().err == "noisy-student: KeyError: 'missing'; a defect: please report it, with --debug\n"


def test_the_installed_command() -> None:
    noisy_student = Path(sys.executable).with_name("noisy-student")
    done = subprocess.run([noisy_student, "verify", "nowhere"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("noisy-student: ")
    assert "Traceback" not in done.stderr
