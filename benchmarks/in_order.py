"""The flow's stages in the flow's order, without an orchestrator."""

from typing import Any

from noisystudent_core import stages
from noisystudent_core.config import NoisyStudentConfig, StageSettings
from noisystudent_core.config.evaluation import Adversarial, ReportConfig
from noisystudent_core.evaluation import report
from noisystudent_core.storage.manifest import artifact_url, input_digests
from tests.flows.world import SIZES


def algorithm_1(config: NoisyStudentConfig, root: str) -> None:
    """Call them one after another."""

    def run(call: str, settings: StageSettings, **inputs: str) -> str:
        stage: Any = getattr(stages, call)
        stage(settings, inputs, root)
        return artifact_url(settings, input_digests(inputs), root)

    data = {split: run("prepare", config.prepare(split), source=str(config.source(split))) for split in SIZES}
    labelled = {"labelled": data["labelled"], "validation": data["validation"]}
    evaluation = {"validation": data["validation"], "test": data["test"]}
    hashing = config.fingerprint()
    assert hashing is not None
    unlabelled = {"unlabelled": data["unlabelled"]}
    fingerprints = run("fingerprint", hashing, **unlabelled)
    exclusions = run("exclusions", config.exclusions(), **unlabelled, fingerprints=fingerprints, **evaluation)

    def measure(checkpoint: str, iteration: int) -> dict[str, str]:
        found = {
            benchmark: run("evaluate", config.evaluate(benchmark), checkpoint=checkpoint, images=images)
            for benchmark, images in evaluation.items()
        }
        return {"checkpoint": checkpoint, **found, **robustness(checkpoint, iteration)}

    def robustness(checkpoint: str, iteration: int) -> dict[str, str]:
        found = {}
        for suite in config.robustness.suites:
            seen = {"images": data["test"]}
            if not isinstance(suite, Adversarial):
                seen = {"corrupted": run("corrupt", config.corrupt(suite, iteration), images=data["test"])}
            found[suite.kind] = run("evaluate", config.evaluate("test", suite), checkpoint=checkpoint, **seen)
        return found

    teacher = run("fit", config.fit_teacher(), **labelled)
    models = [measure(teacher, 0)]
    predictions = run("predict", config.predict("label"), checkpoint=teacher, images=data["unlabelled"])
    selection = run(
        "select",
        config.select(),
        predictions=predictions,
        images=data["unlabelled"],
        exclusions=exclusions,
        labelled=data["labelled"],
        validation_predictions=run("predict", config.predict("label"), checkpoint=teacher, images=data["validation"]),
        validation_images=data["validation"],
    )
    for i in config.student_iterations:
        baseline = run("fit", config.fit_baseline(i), **labelled)
        supervised = run("evaluate", config.evaluate("test"), checkpoint=baseline, images=data["test"])
        selected = {"images": data["unlabelled"], "selection": selection}
        pseudo = run("predict", config.teach(i), checkpoint=teacher, **selected)
        teacher = run("fit", config.fit_student(i), **labelled, **selected, predictions=pseudo)
        own = {f"supervised_{kind}": url for kind, url in robustness(baseline, i).items()}
        models.append({**measure(teacher, i), "supervised": supervised, **own})
    pictured = {"images": data["unlabelled"], "selection": selection, "predictions": predictions}
    run(
        "report",
        ReportConfig.of(config),
        **report.inputs(models),
        **pictured,
        exclusions=exclusions,
        test=data["test"],
    )
