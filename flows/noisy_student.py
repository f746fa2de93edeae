"""Noisy Student Training, Algorithm 1 of the paper (section 2), as a flow."""

from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows.parameters import AtLeastOne, EngineName, Overrides, Ratio, Recipe, Shrink, Threshold, Url
from noisystudent_core.config import NoisyStudentConfig
from noisystudent_core.recipes import configure
from tasks.evaluate import Measuring, summarise
from tasks.fit import fit_baselines, fit_selector, fit_student, fit_teacher
from tasks.hooks import INTERRUPTION, numbered
from tasks.predict import label
from tasks.prepare import exclusions, prepare_all
from tasks.publish import publish
from tasks.running import Ref, Run
from tasks.select import select, selected_images
from tasks.session import session

THREADS: Any = ThreadPoolTaskRunner(max_workers=16)  # the default has no bound; device slots bound the work


@flow(name="noisy-student", flow_run_name=numbered("{recipe} seed {seed}"), task_runner=THREADS, **INTERRUPTION)
def noisy_student(
    recipe: Recipe = "digits",
    root: Url | None = None,
    labelled: Url | None = None,
    unlabelled: Url | None = None,
    validation: Url | None = None,
    test: Url | None = None,
    seed: int = 0,
    engine: EngineName = "local",
    student: str | None = None,
    num_iterations: AtLeastOne | None = None,
    unlabelled_ratio: Ratio | None = None,
    threshold: Threshold | None = None,
    num_images_per_class: AtLeastOne | None = None,
    shrink: Shrink = 1.0,
    overrides: Overrides | None = None,
    register_model: bool = True,
) -> list[dict[str, Any]]:
    """Turn labelled images and many more unlabelled ones into a better classifier; returns the iterations table.

    A finished stage is reused: run the same parameters again to go on after an interruption.

    Args:
        recipe: A whole configuration by name; `noisy-student recipes` lists them.
        root: Where artifacts go, a folder or s3:// URL; by default .noisy-student/artifacts.
        labelled: Labelled images, prepared or any other source; by default the recipe's.
        unlabelled: Unlabelled images, likewise; by default the recipe's.
        validation: Images that choices are made on; by default the recipe's, or a share of the labelled ones.
        test: Images that the table reports; by default the recipe's.
        seed: Seed of the whole run.
        engine: Where stages run: "local", the devices of this machine, or "ray", those of a Ray cluster (docs/ray.md).
        student: timm name of every student's net, instead of the recipe's.
        num_iterations: How many students, one after another; the recipe's last one is repeated.
        unlabelled_ratio: Unlabelled images per labelled image of a step, at least 1.
        threshold: Pseudo labels of a confidence above it are kept, from 0 to below 1.
        num_images_per_class: Selected images of each class, copies counted.
        shrink: Factor on the recipe's images and steps, for a trial.
        register_model: Whether the last student goes to MLflow's registry.
        overrides: Any other setting by dotted path, as {"iterations.0.train.warmup_epochs": 5}.
    """
    sources = {"labelled": labelled, "unlabelled": unlabelled, "validation": validation, "test": test}
    config = configure(
        recipe,
        sources=sources,
        seed=seed,
        student=student,
        num_iterations=num_iterations,
        unlabelled_ratio=unlabelled_ratio,
        threshold=threshold,
        num_images_per_class=num_images_per_class,
        shrink=shrink,
        overrides=overrides,
    )
    with session(config, root, engine) as run:
        rows, student = iterate(config, run)
        if register_model:
            publish.submit(student, rows, config, run).wait()
        return rows.result()


def iterate(config: NoisyStudentConfig, run: Run) -> tuple[Ref, Ref]:
    """Algorithm 1; returns the table's rows and the last student. What waits is only what the paper lets wait."""
    data = prepare_all(config, run)

    # 1. a teacher, noised, on labelled images; beside it each student's net on the same, for comparison
    first = fit_teacher(data, config, run)
    baselines = fit_baselines(data, config, run)
    measuring = Measuring(data, config, run)
    models = [measuring.model(0, first, None)]
    teacher = first.checkpoint
    selection = filter_and_balance(teacher, data, config, run)
    selected = selected_images(selection, config, run)

    for i in config.student_iterations:
        # 2. the teacher, not noised, labels the selected images
        pseudo = label(f"teacher {i}", config.teach(i), {"checkpoint": teacher, **selected}, run, i)
        # 3. an equal-or-larger student, noised, on labelled and pseudo-labelled images
        student = fit_student(i, teacher, {**selected, "predictions": pseudo}, data, config, run)
        models.append(measuring.model(i, student, baselines.get(i)))
        teacher = student.checkpoint  # 4. go to 2

    pictured = {**selection, measuring.reported: data[measuring.reported]}
    return summarise.submit(models, pictured, config, run), teacher


def filter_and_balance(teacher: Ref, data: dict[str, Ref], config: NoisyStudentConfig, run: Run) -> dict[str, Ref]:
    """Section 2, "Other Techniques", once for all students: the selector's confident images, as many of each class.

    Returns the selection, and what it was made of.
    """
    excluded = exclusions(data, config, run)
    selector = fit_selector(teacher, data, config, run)
    settings = config.predict("label")
    inputs = {
        "predictions": label("selector", settings, {"checkpoint": selector, "images": data["unlabelled"]}, run),
        "images": data["unlabelled"],
        "exclusions": excluded,
        "labelled": data["labelled"],
        "validation_predictions": label(
            "selector, validation", settings, {"checkpoint": selector, "images": data["validation"]}, run
        ),
        "validation_images": data["validation"],
    }
    made_of = {name: inputs[name] for name in ("images", "predictions", "exclusions")}
    return {**made_of, "selection": select.submit(inputs, config, run)}
