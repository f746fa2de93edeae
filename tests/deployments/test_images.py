"""Dockerfile, .dockerignore and compose.yaml, checked by what needs no engine."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.settings import Settings
from prefect_redis.client import RedisMessagingSettings

from deployments import placement
from tasks.mlflow_connection import UI_URL
from tasks.services import PREFECT_SETTINGS
from tests.deployments.composed import FOLDER, example_variables, load

ROOT = FOLDER.parent
BIN = Path(sys.executable).parent
SECRETS = {name: f"secret-{name.lower()}" for name in example_variables()}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(BIN / command[0]), *command[1:]], capture_output=True, text=True, cwd=ROOT)


def test_dockerfile_passes_its_linter() -> None:
    done = run("hadolint", "deployments/Dockerfile")
    assert done.returncode == 0, done.stdout


def test_linter_finds_faults(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM python:latest\nRUN cd /x\n")
    assert run("hadolint", str(tmp_path / "Dockerfile")).returncode == 1


def test_image_is_of_the_lock_and_not_run_by_root() -> None:
    text = (FOLDER / "Dockerfile").read_text()
    assert text.count("FROM ") == 2
    assert "--constraint requirements.lock" in text
    assert not re.search(r"--(extra-)?index|--find-links|https?://", text)
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert "COPY --from=build /opt/noisy-student /opt/noisy-student" in text.split("FROM ")[2]
    assert not re.search(r"^(COPY|ADD) (?!--from)", text.split("FROM ")[2], re.MULTILINE)
    assert f"noisy-student:{version('noisy-student')} " in text


def test_what_the_wheel_holds_reaches_the_build() -> None:
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = built["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert {entry.split("/")[0] for entry in wheel} | {"pyproject.toml", "requirements.lock"} <= kept
    assert {built["project"]["readme"], "LICENSE"} <= kept
    assert "deployments/.env" in lines


@pytest.mark.parametrize("file", ["compose.yaml", "compose.gpu.yaml"])
def test_compose_file_fits_the_specification(file: str) -> None:
    done = run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(FOLDER / file))
    assert done.returncode == 0, done.stdout


def test_specification_finds_faults(tmp_path: Path) -> None:
    wrong = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    wrong["services"]["worker"]["helthcheck"] = wrong["services"]["worker"].pop("healthcheck")
    (tmp_path / "compose.yaml").write_text(yaml.safe_dump(wrong))
    done = run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(tmp_path / "compose.yaml"))
    assert done.returncode == 1


@pytest.fixture
def services() -> dict[str, Any]:
    return load(SECRETS)["services"]


def test_secrets_come_from_the_environment_alone() -> None:
    text = (FOLDER / "compose.yaml").read_text()
    for name in re.findall(r"^ *(\w*(?:PASSWORD|SECRET|AUTH_STRING|AUTH)): (.*)$", text, re.MULTILINE):
        assert name[1].startswith("${"), name
    assert set(re.findall(r"\$\{(\w+):\?", text)) == set(SECRETS)
    for missing in SECRETS:
        with pytest.raises(KeyError, match=missing):
            load({name: value for name, value in SECRETS.items() if name != missing})


def test_what_is_waited_for_is_there_and_says_when_it_is_ready(services: dict[str, Any]) -> None:
    for service in services.values():
        for name, wanted in service.get("depends_on", {}).items():
            ends = services[name].get("restart") == "on-failure"
            assert wanted["condition"] == ("service_completed_successfully" if ends else "service_healthy")
            assert ends or "healthcheck" in services[name]


def test_nothing_is_open_to_other_machines_unless_asked(services: dict[str, Any]) -> None:
    ports = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert ports == {"prefect": ["127.0.0.1:4200:4200"], "mlflow": ["127.0.0.1:5000:5000"]}
    asked = load({**SECRETS, "BIND": "10.0.0.1"})["services"]
    assert asked["prefect"]["ports"] == ["10.0.0.1:4200:4200"]


def test_links_lead_where_a_browser_gets(services: dict[str, Any]) -> None:
    worker = services["worker"]["environment"]
    assert worker["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"  # a name that only containers know
    assert (worker["PREFECT_UI_URL"], worker[UI_URL]) == ("http://localhost:4200", "http://localhost:5000")
    public = {"PREFECT_URL": "https://prefect.example.org", "MLFLOW_URL": "https://mlflow.example.org"}
    worker = load(SECRETS | public)["services"]["worker"]["environment"]
    assert [worker[name] for name in ("PREFECT_UI_URL", UI_URL)] == [*public.values()]


def test_no_source_is_mounted(services: dict[str, Any]) -> None:
    named = {f"{name}:" for name in load(SECRETS)["volumes"]}
    for service in services.values():
        assert all(volume.startswith(tuple(named)) for volume in service.get("volumes", []))


def test_one_image_of_one_version(services: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOISY_STUDENT_IMAGE", raising=False)
    image = placement.placement()["image"]
    ours = {name for name, service in services.items() if service["image"] == image}
    assert ours == {"prefect", "mlflow", "deploy", "worker", "buckets"}
    assert services["prefect"]["build"] == {"context": "..", "dockerfile": "deployments/Dockerfile"}


def test_server_has_the_settings_of_the_local_one_and_prefect_knows_them(
    services: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = services["prefect"]["environment"] | services["worker"]["environment"]
    shared = {name for name in PREFECT_SETTINGS if name.startswith(("PREFECT_SERVER", "PREFECT_FLOWS"))}
    assert {name: given.get(name) for name in shared} == {name: PREFECT_SETTINGS[name] for name in shared}
    ours = {name: value for name, value in given.items() if name.startswith("PREFECT_")}
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    understood = Settings().to_environment_variables(exclude_unset=True, include_secrets=True)
    assert set(ours) - {name for name in ours if name.startswith("PREFECT_REDIS_")} <= set(understood)
    redis = RedisMessagingSettings()
    assert (redis.host, redis.port, redis.password) == ("redis", 6379, SECRETS["REDIS_PASSWORD"])
