"""The result of a run: a table with a row per iteration, the gain of the method apart from the gain of size."""

from collections.abc import Mapping, Sequence
from typing import Any

from noisystudent_core.config.evaluation import ReportConfig
from noisystudent_core.config.run import NoisyStudentConfig
from noisystudent_core.evaluation.relative import mean_relative
from noisystudent_core.storage.manifest import Artifact

Row = dict[str, Any]
Model = Mapping[str, str | None]  # artifact URLs: "checkpoint", and evaluations by name

SUITES = ("corruptions", "perturbations", "adversarial")  # beside accuracy, on the images that the table reports
TABLE_EPSILON = 2.0  # of the FGSM column, as in section 3.2; of several the nearest

BEFORE = {
    "iteration": "iteration",
    "model": "model",
    "parameters": "parameters",
    "unlabelled_ratio": "ratio",
    "validation_top1": "validation top-1",
    "top1": "top-1",
    "top5": "top-5",
}
WHERE_MEASURED = {
    "macro_f1": "macro-F1",
    "ece": "ECE",
    "mce": "mCE (teacher = 100)",
    "mean_corruption_error": "corruption error",
    "mfr": "mFR (teacher = 100)",
    "mean_flip_probability": "flip probability",
}
AFTER = {
    "supervised_top1": "supervised top-1",
    "change_teacher": "vs. teacher",
    "change_supervised": "vs. supervised",
}
BY_TOP1 = ("corruption_top1", "perturbation_top1")  # of rows and metrics, not of the table
RELATIVE = {"mce": ("mean_corruption_error", "mCE"), "mfr": ("mean_flip_probability", "mFR")}
LOWER_IS_BETTER = ("ece", "mce", "mean_corruption_error", "mfr", "mean_flip_probability")


def iterations(models: Sequence[Model]) -> list[Row]:
    """Rows of the table, the teacher's first: accuracies in percent, changes in points, None for what does not apply.

    `models[i]` holds artifact URLs of iteration i: "checkpoint", its evaluations "validation", "test" and those of
    `SUITES`; "supervised" and "supervised_<suite>" of the same net fitted on the labelled images alone. All but the
    first two may be None or missing. top1 is on the test images, or on the validation images where there is no test
    set. Every row has the same keys: what no model was measured on is in none.
    """
    rows: list[Row] = []
    for iteration, model in enumerate(models):
        reported, supervised = (_figures(model, models[0], prefix) for prefix in ("", "supervised_"))
        checkpoint = Artifact.open(str(model["checkpoint"])).manifest
        rows.append(
            {
                "iteration": iteration,
                "model": checkpoint.config["model"]["name"],
                "parameters": checkpoint.facts["num_parameters"],
                "unlabelled_ratio": (checkpoint.config.get("pseudo_labels") or {}).get("unlabelled_ratio"),
                "validation_top1": facts(model.get("validation"))["top1"],
                "top5": None,
                **reported,
                "supervised_top1": None,
                **{f"supervised_{name}": value for name, value in supervised.items()},
                "change_teacher": _change(reported["top1"], rows[-1]["top1"] if rows else None),
                "change_supervised": _change(reported["top1"], supervised.get("top1")),
                "checkpoint": f"{checkpoint.kind}/{checkpoint.key}",
            }
        )
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return [{key: row.get(key) for key in keys} for row in rows]


def metrics(row: Row) -> dict[str, float]:
    """A row's numbers under the metric keys that every iteration shares."""
    found = {f"eval/{key}": row[key] for key in row if key.removeprefix("supervised_") in measured([row])}
    found["validation/top1"] = row["validation_top1"]
    return {key: value for key, value in found.items() if value is not None}


def measured(rows: Sequence[Row]) -> dict[str, str]:
    """Key and heading of every figure that a model of these rows has, in the order of the table."""
    sweep = [key for key in rows[0] if key.startswith(("fgsm_", "pgd_"))]
    headings = {key: BEFORE[key] for key in ("top1", "top5")} | WHERE_MEASURED
    headings |= {key: key.replace("_", " ") for key in BY_TOP1}
    headings |= {key: attack_heading(key) for key in sweep}
    return {key: heading for key, heading in headings.items() if any(row.get(key) is not None for row in rows)}


def columns(rows: Sequence[Row]) -> dict[str, str]:
    """Key and heading of the table's columns; of FGSM's sweep one epsilon."""
    found = measured(rows)
    shown = [*WHERE_MEASURED, *attacks([*found])]
    return BEFORE | {key: found[key] for key in shown if key in found} | AFTER


def figures_of(rows: Sequence[Row]) -> dict[str, str]:
    """Key and heading of those columns that each net has a figure in."""
    return {key: heading for key, heading in columns(rows).items() if key in measured(rows)}


def attacks(keys: Sequence[str]) -> list[str]:
    """Those keys whose attacks a table shows: of FGSM's sweep the epsilon nearest `TABLE_EPSILON`, and PGD."""
    sweep = [key for key in keys if key.startswith("fgsm_") and epsilon(key) > 0]
    return [*sorted(sweep, key=_from_table_epsilon)[:1], *(key for key in keys if key.startswith("pgd_"))]


def attack_heading(key: str) -> str:
    """FGSM ε=2 top-1, of "fgsm_2"."""
    kind, _, strength = key.partition("_")
    return f"{kind.upper()} ε={strength} top-1"


def epsilon(key: str) -> float:
    """The epsilon, in grey levels, of a key such as "fgsm_2"."""
    return float(key.partition("_")[2])


def markdown(config: NoisyStudentConfig, rows: Sequence[Row]) -> str:
    """The table as a Markdown page, with what a reader must know to trust it."""
    return text(ReportConfig.of(config), rows)


def text(config: ReportConfig, rows: Sequence[Row], notes: Sequence[str] = ()) -> str:
    """See `markdown`; `notes` are further sentences."""
    said = " ".join([*remarks(config, rows), *notes])
    compared = "".join(
        f"- {name}: {', '.join(f'{role} {value}' for role, value in figures.items())}\n"
        for name, figures in comparison(rows)
    )
    return f"# {config.name}, seed {config.seed}\n\n{table(rows)}\n{said}\n\n{compared}"


def remarks(config: ReportConfig, rows: Sequence[Row]) -> list[str]:
    """What a reader must know: the gain, where the numbers are from, what the relative means are."""
    said = [_gain(rows), _origin(config)]
    found = measured(rows)
    relative = [name for key, (_, name) in RELATIVE.items() if key in found]
    if relative:
        said.append(
            f"{' and '.join(relative)}: the first teacher of this run is 100, on images made of the reported ones, so "
            "that they compare with nothing published; lower is better. Beside them are the plain means, in percent."
        )
    missing = [name for key, (plain, name) in RELATIVE.items() if plain in found and key not in found]
    if missing:
        said.append(
            f"No {' or '.join(missing)}: the first teacher makes no error of some kind, so nothing relates to it."
        )
    return said


def comparison(rows: Sequence[Row]) -> list[tuple[str, dict[str, str]]]:
    """Each figure of the last student beside the first teacher's and its supervised baseline's, and the changes."""
    first, last = rows[0], rows[-1]
    found = []
    for key, heading in figures_of(rows).items():
        supervised = last.get(f"supervised_{key}")
        shown = {"first teacher": first[key], "supervised": supervised, "last student": last[key]}
        changes = {"vs. teacher": _change(last[key], first[key]), "vs. supervised": _change(last[key], supervised)}
        figures = {role: cell(key, value) for role, value in shown.items()}
        figures |= {role: cell("change", value) for role, value in changes.items()}
        found.append((heading, {role: value for role, value in figures.items() if value != "-"}))
    return found


def table(rows: Sequence[Row]) -> str:
    """The table in Markdown, its columns aligned for a terminal."""
    shown = columns(rows)
    return aligned([list(shown.values()), *([cell(name, row[name]) for name in shown] for row in rows)])


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """Lines of text, the headings first, as a Markdown table whose columns are aligned."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [[text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in cells]
    lines.insert(1, ["-" * width for width in widths])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(name: str, value: Any) -> str:
    """A value of a column as text."""
    if value is None:
        return "-"
    if name == "parameters":
        return f"{value:,}"
    if name.startswith("change"):
        return f"{value:+.2f}"
    return f"{value:.2f}" if isinstance(value, float) and name != "unlabelled_ratio" else str(value)


def inputs(models: Sequence[Model]) -> dict[str, str]:
    """All addresses of `models` as inputs of a stage, by names such as "evaluation 1 supervised"."""
    named = {
        f"checkpoint {number}" if name == "checkpoint" else f"evaluation {number} {name}": url
        for number, model in enumerate(models)
        for name, url in model.items()
    }
    return {name: url for name, url in named.items() if url}


def models_of(named: Mapping[str, str]) -> list[Model]:
    """The models that `inputs` gave names to."""
    found: dict[int, dict[str, str]] = {}
    for name, url in named.items():
        kind, *which = name.split(" ")
        if kind in ("checkpoint", "evaluation") and which:
            found.setdefault(int(which[0]), {})[which[-1] if which[1:] else "checkpoint"] = url
    return [found[number] for number in sorted(found)]


def reported(model: Model, prefix: str = "") -> str | None:
    """The address of the accuracy that the table reports, of the model or of its "supervised_" baseline."""
    return model.get("supervised") if prefix else model.get("test") or model.get("validation")


def facts(url: str | None, name: str = "metrics") -> dict[str, Any]:
    """What an evaluation found; nothing where there is none."""
    return Artifact.open(url).manifest.facts.get(name, {}) if url else {}


def _figures(model: Model, first: Model, prefix: str) -> dict[str, float]:
    """Every figure of one net, by column."""
    accuracy = facts(reported(model, prefix))
    found = {name: accuracy[name] for name in ("top1", "top5", "macro_f1", "ece") if name in accuracy}
    suites = {suite: facts(model.get(prefix + suite)) for suite in SUITES}
    for suite, kind, relative in (
        ("corruptions", "corruption_error", "mce"),
        ("perturbations", "flip_probability", "mfr"),
    ):
        base = _fractions(facts(first.get(suite)), kind)
        mine = _fractions(suites[suite], kind)
        if mine.keys() == base.keys() and base and min(base.values()) > 0:  # a teacher without error is no measure
            found[relative] = mean_relative(mine, base, kind)
        found |= {key: suites[suite][key] for key in (*WHERE_MEASURED, *BY_TOP1) if key in suites[suite]}
    return found | {key.removesuffix("/top1"): value for key, value in suites["adversarial"].items()}


def _fractions(found: Mapping[str, float], kind: str) -> dict[str, float]:
    """The figures `<kind>/<name>`, in percent, as fractions by name."""
    return {key.partition("/")[2]: value / 100 for key, value in found.items() if key.split("/")[:-1] == [kind]}


def _gain(rows: Sequence[Row]) -> str:
    change = rows[-1]["change_supervised"]
    beside = "" if change is None else f" and {change:+.2f} from the same net fitted on the labelled images alone"
    gain = rows[-1]["top1"] - rows[0]["top1"]
    return f"The last student's top-1 is {gain:+.2f} points from the first teacher's{beside}."


def _origin(config: ReportConfig) -> str:
    if not config.has_test:
        return "There is no test set: top-1 is on the validation images, on which choices may have been made."
    share = "a source of its own" if config.own_validation else "a share of the labelled images"
    return (
        "All figures but the validation's are on the test images, read once per model, last checkpoint; "
        f"choices belong on the validation images ({share})."
    )


def _change(value: float | None, reference: float | None) -> float | None:
    return None if value is None or reference is None else round(value - reference, 4)


def _from_table_epsilon(key: str) -> tuple[float, float]:
    return abs(epsilon(key) - TABLE_EPSILON), epsilon(key)
