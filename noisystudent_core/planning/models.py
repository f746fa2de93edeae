"""The fits of a run on paper, as `tasks/fit.py` submits them."""

from noisystudent_core.config.run import LearnerConfig
from noisystudent_core.config.settings import FitConfig, ModelConfig
from noisystudent_core.planning.counts import Images
from noisystudent_core.planning.fits import fit_memory, fit_work, memory_note
from noisystudent_core.planning.layout import Layout, Stage

PREPARED = ("prepare labelled", "prepare validation")


def first_model(layout: Layout, role: str, learner: LearnerConfig, config: FitConfig) -> str:
    """Add a fit on labelled images, or where a checkpoint is given its adoption; returns the stage's name."""
    if learner.checkpoint is not None:
        return layout.add(Stage(name=f"adopt {role}", storage_bytes=_checkpoint_bytes(layout, learner.model)))
    return fit(layout, role, config, None, PREPARED, setting=role)


def fit(
    layout: Layout,
    role: str,
    config: FitConfig,
    selected: Images | None,
    after: tuple[str, ...],
    setting: str,
    name: str = "",
) -> str:
    """Add a fit: `selected` are pseudo-labelled images of a student, `setting` is where its settings are."""
    learnt = layout.sets["labelled"], layout.sets["validation"], selected
    work, overlaps = fit_work(config, *learnt, layout.machine)
    ratio = f", {setting}.pseudo_labels.unlabelled_ratio" if config.pseudo_labels else ""
    return layout.add(
        Stage(
            name=name or f"fit {role}",
            after=after,
            work=work,
            images=round(work[0].amount),
            processes=1 if layout.machine.is_cpu else config.num_processes(layout.machine.num_devices),
            storage_bytes=_checkpoint_bytes(layout, config.model),
            memory_bytes=fit_memory(config, layout.nets, layout.machine),
            note=memory_note(config, layout.nets, layout.machine, setting),
            overlaps=overlaps,
            moved_by=f"{setting}.train.{'steps' if config.train.epochs is None else 'epochs'}{ratio}, "
            f"{setting}.model.resolution_px or a smaller {setting}.model.name",
        )
    )


def baselines(layout: Layout) -> dict[int, str]:
    """Add each student's net on the labelled images alone, equal ones once; their names by iteration."""
    submitted: dict[FitConfig, str] = {}
    found = {}
    for i in layout.config.baseline_iterations:
        settings = layout.config.fit_baseline(i)
        if settings in submitted:
            continue  # equal ones are fitted and measured once
        submitted[settings] = found[i] = fit(layout, f"baseline {i}", settings, None, PREPARED, f"iterations.{i - 1}")
    return found


def student(layout: Layout, i: int, pseudo: str) -> str:
    """Add the fit of student `i` after the stage `pseudo` that labels for it, and what follows where that is set."""
    after, setting = (pseudo, *PREPARED), f"iterations.{i - 1}"
    student = fit(layout, f"student {i}", layout.config.fit_student(i), layout.selected, after, setting)
    if (finetune := layout.config.fit_finetune(i)) is not None:
        student = fit(layout, f"student {i}, fine-tuned", finetune, None, (student,), setting)
    return student


def at_larger_resolution(layout: Layout, i: int, role: str, model: str) -> str:
    """Add the short fit at a larger resolution that follows `model`'s, where one is set; returns the last one."""
    if (settings := layout.config.fix_resolution(i)) is None:
        return model
    setting = f"iterations.{i - 1}.fix_resolution" if i else "teacher.fix_resolution"
    return fit(layout, role, settings, None, (model,), setting, name=f"fix resolution of {role}")


def _checkpoint_bytes(layout: Layout, model: ModelConfig) -> float:
    return 4.0 * layout.nets(model, layout.config.data.num_classes).num_parameters
