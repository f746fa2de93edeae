"""The paper's studies: grids of short runs over seeds, which share every stage that is the same."""

from typing import Any

from prefect import flow

from flows.noisy_student import THREADS, noisy_student
from flows.parameters import EngineName, Overrides, Recipe, Shrink, Study, Url
from noisystudent_core.recipes import configure
from noisystudent_core.recipes.studies import variants_of
from tasks.hooks import INTERRUPTION, numbered
from tasks.studies import StudyRun, checked, compare, name_of


@flow(name="ablate", flow_run_name=numbered("{study} on {recipe}"), task_runner=THREADS, **INTERRUPTION)
def ablate(
    study: Study = "table6",
    recipe: Recipe = "digits",
    root: Url | None = None,
    seeds: list[int] | None = None,
    nets: list[str] | None = None,
    unlabelled: dict[str, Url] | None = None,
    engine: EngineName = "local",
    shrink: Shrink = 1.0,
    overrides: Overrides | None = None,
) -> list[dict[str, Any]]:
    """Compare variants of a recipe over several seeds, one student each; returns the study's table.

    Each variant and seed is a run of the flow noisy-student. A stage that two of them share is done once.

    Args:
        study: table6, figure2, or one of the appendix's: teachers, amounts, labels, students, balancing, joint,
            ratios, starts.
        recipe: A whole configuration by name; `noisy-student recipes` lists them.
        root: Where artifacts go, a folder or s3:// URL; by default .noisy-student/artifacts.
        seeds: Seeds of the runs; by default 0, 1 and 2.
        nets: timm names of the nets that a study compares, the smallest first.
        unlabelled: Sets of unlabelled images by name, each studied, as {"in-domain": ..., "mismatched": ...}.
        engine: Where stages run: "local", the devices of this machine, or "ray", the GPUs of a cluster.
        shrink: Factor on the recipe's images and steps, for a trial.
        overrides: Settings of all variants by dotted path.
    """
    config = configure(recipe, shrink=shrink, num_iterations=1, overrides=overrides)
    common = {"recipe": recipe, "shrink": shrink, "num_iterations": 1}
    grid = {
        (data, variant): (url, {**(overrides or {}), **settings, "name": name_of(config.name, data, variant)})
        for data, url in (unlabelled or {"": None}).items()
        for variant, settings in variants_of(study, config, nets or []).items()
    }
    possible = [configure(**common, sources={"unlabelled": url}, overrides=changed) for url, changed in grid.values()]
    runs = []
    with checked(possible, root, engine):
        for seed in seeds or [0, 1, 2]:
            for (data, variant), (url, changed) in grid.items():
                rows: Any = noisy_student(
                    **common,
                    root=root,
                    unlabelled=url,
                    seed=seed,
                    engine=engine,
                    overrides=changed,
                    register_model=False,
                )
                runs.append(StudyRun(data=data, variant=variant, seed=seed, rows=rows))
        return compare(study, recipe, runs, root)
