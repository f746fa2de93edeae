"""Measurements of a checkpoint, and the table over iterations."""

from dataclasses import dataclass, field
from typing import Any

from prefect import task
from prefect.client.schemas.objects import State

from noisystudent_core.config import CorruptConfig, EvaluateConfig, NoisyStudentConfig
from noisystudent_core.config.evaluation import Adversarial, Corruptions, ReportConfig
from noisystudent_core.evaluation import report
from noisystudent_core.storage.filesystem import Folder
from noisystudent_core.storage.manifest import Manifest
from tasks.fit import Fitted
from tasks.progress import show_link, show_markdown, show_table
from tasks.running import RETRIES, Ref, Run, run_stage


@task(name="corrupt", task_run_name="{suite} of {benchmark}", **RETRIES)
def corrupt(suite: str, benchmark: str, config: CorruptConfig, images: Ref, run: Run) -> State[str]:
    """Make the images of a suite, which every model of their size is then measured on."""
    inputs = {"images": images} | ({"frost": config.suite.frost} if isinstance(config.suite, Corruptions) else {})
    given = {name: url for name, url in inputs.items() if url is not None}
    return run_stage("corrupt", config, given, run, f"{suite} of {benchmark}")


@task(name="evaluate", task_run_name="evaluate {role} on {what}", **RETRIES)
def evaluate(
    role: str, what: str, config: EvaluateConfig, inputs: dict[str, Ref], run: Run, iteration: int
) -> State[str]:
    """Measure {"checkpoint"} on {"images"}, {"corrupted"} ones or {"folder"}, a released benchmark."""
    return run_stage("evaluate", config, inputs, run, f"evaluate {role} on {what}", iteration, _metrics)


def _metrics(manifest: Manifest) -> dict[str, float]:
    """Numbers under the keys that every iteration shares: eval/ on the test images, validation/ on those."""
    prefix = "eval" if manifest.config["benchmark"] == "test" else manifest.config["benchmark"]
    found = manifest.facts["metrics"].items()
    return {f"{prefix}/{as_key(metric)}": value for metric, value in found if metric.count("/") < 2}


def as_key(metric: str) -> str:
    """A metric's name as MLflow takes it: without the brackets of "frost (procedural)"."""
    return metric.replace("(", "").replace(")", "")


@dataclass(frozen=True)
class Measuring:
    """What is measured of every model of a run, and on which images."""

    data: dict[str, Ref]
    config: NoisyStudentConfig
    run: Run
    _worse: dict[CorruptConfig, Ref] = field(default_factory=dict)  # what is made of the images, once a size

    @property
    def reported(self) -> str:
        """The images whose numbers the table shows."""
        return "test" if self.config.sources.test else "validation"

    def model(self, iteration: int, model: Fitted, baseline: Ref | None) -> dict[str, Any]:
        """Submit an iteration's measurements; futures of the artifact URLs that `summarise` reads."""
        role = f"student {iteration}" if iteration else "teacher"
        found = {
            "checkpoint": model.checkpoint,
            "validation": self._accuracy("validation", role, model.checkpoint, iteration),
            "test": self._accuracy("test", role, model.checkpoint, iteration) if self.config.sources.test else None,
            "supervised": None,
            **self._robustness(role, model.before_resolution, iteration),
        }
        if baseline is None:
            return found
        role = f"baseline {iteration}"
        found["supervised"] = self._accuracy(self.reported, role, baseline, iteration)
        return found | {f"supervised_{kind}": url for kind, url in self._robustness(role, baseline, iteration).items()}

    def _accuracy(self, benchmark: str, role: str, model: Ref, iteration: int) -> Ref:
        inputs = {"checkpoint": model, "images": self.data[benchmark]}
        return evaluate.submit(role, benchmark, self.config.evaluate(benchmark), inputs, self.run, iteration)

    def _robustness(self, role: str, model: Ref, iteration: int) -> dict[str, Ref]:
        """The suites that are set, each by its kind; of a model before its resolution is fixed (section 3.4)."""
        found = {}
        for suite in self.config.robustness.suites:
            inputs = {"checkpoint": model}
            if isinstance(suite, Adversarial):
                inputs["images"] = self.data[self.reported]
            else:
                inputs["corrupted"] = self._corrupted(self.config.corrupt(suite, iteration))
            settings, what = self.config.evaluate(self.reported, suite), f"{self.reported}, {suite.kind}"
            found[suite.kind] = evaluate.submit(role, what, settings, inputs, self.run, iteration)
        return found

    def _corrupted(self, config: CorruptConfig) -> Ref:
        if config not in self._worse:
            images = self.data[self.reported]
            self._worse[config] = corrupt.submit(config.suite.kind, self.reported, config, images, self.run)
        return self._worse[config]


@task(name="report", task_run_name="report", **RETRIES)
def summarise(
    models: list[dict[str, Any]], pictured: dict[str, Ref], config: NoisyStudentConfig, run: Run
) -> list[dict[str, Any]]:
    """The iterations table and the page with its charts, in Prefect, in MLflow; returned: a row per iteration.

    `pictured`: what the page shows pictures of, the inputs of the stage beside the models' own.
    """
    rows = report.iterations(models)
    table = [{name: row[name] for name in (*report.columns(rows), "checkpoint")} for row in rows]
    show_table("iterations", table, f"{config.name}: each iteration against its teacher and its supervised baseline")
    run.tracker.log_table(run.mlflow_run_id, "iterations", rows)
    for row in rows:
        run.tracker.log_parent_metrics(run.mlflow_run_id, report.metrics(row), step=row["iteration"])
    inputs = {**report.inputs(models), **{name: url for name, url in pictured.items() if url is not None}}
    show_page(str(run_stage("report", ReportConfig.of(config), inputs, run, "report").data), run)
    return rows


def show_page(url: str, run: Run) -> None:
    """The report at `url` in MLflow, its text in Prefect with links to where it is seen."""
    page = Folder.at(url)
    for name in ("report.md", "report.html"):
        run.tracker.log_text(run.mlflow_run_id, name, page.read(name).decode())
    show_markdown("report", f"{page.read('report.md').decode()}\nWith charts and pictures: `{page.url}/report.html`\n")
    if (address := run.tracker.run_url(run.mlflow_run_id)) is not None:
        show_link("mlflow", address, "This run in MLflow")
        show_link("page", f"{address}/artifacts/report.html", "The report with charts and pictures, in MLflow")
