"""Which charts a report has, from what was measured; each is left out where its numbers are not there."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noisystudent_core.evaluation import report
from noisystudent_core.evaluation.charts import Chart, Panel, Series
from noisystudent_core.evaluation.report import Model, Row

SMALL = (2.4, 1.9)  # inches of one of many panels
LEAST_SHARE = 0.005  # of the images, in a bin of the reliability diagram


@dataclass(frozen=True, kw_only=True)
class Net:
    """A net that charts compare: its role, and what each evaluation of it found."""

    label: str
    role: str
    metrics: Mapping[str, Mapping[str, float]]  # by suite, "accuracy" among them
    arrays: Mapping[str, Any]  # of accuracy
    num_images: Mapping[str, int] = field(default_factory=dict)  # by suite


def nets(models: Sequence[Model]) -> list[Net]:
    """The first teacher, the last student and, where it was fitted, the student's net on labelled images alone."""
    found = [_net("first teacher", "teacher", models[0], "")]
    if len(models) > 1:
        if models[-1].get("supervised"):
            found.append(_net("supervised baseline", "supervised", models[-1], "supervised_"))
        found.append(_net("last student", "student", models[-1], ""))
    return found


def _net(label: str, role: str, model: Model, prefix: str) -> Net:
    urls = {"accuracy": report.reported(model, prefix)} | {name: model.get(prefix + name) for name in report.SUITES}
    return Net(
        label=label,
        role=role,
        metrics={suite: report.facts(url) for suite, url in urls.items()},
        arrays=report.facts(urls["accuracy"], "arrays"),
        num_images={suite: _num_images(url) for suite, url in urls.items() if url},
    )


def _num_images(url: str) -> int:
    return report.Artifact.open(url).manifest.facts["num_images"]


def accuracy(rows: Sequence[Row], num_images: int) -> Chart:
    """Top-1 over iterations, the supervised baselines beside, with one standard error of a share of so many images."""
    panel = _over_iterations(
        rows, [("top1", "student", "teacher and students"), ("supervised_top1", "supervised", "supervised baseline")]
    )
    series = [
        Series(label=s.label, role=s.role, x=s.x, y=s.y, style=s.style, errors=[_error(y, num_images) for y in s.y])
        for s in panel
    ]
    return Chart(
        name="accuracy",
        title="Top-1 accuracy over iterations",
        caption=f"Of {num_images:,} images; bars: one standard error of such a share, either way. "
        "It holds for the choice of images, not for that of seeds.",
        alt="Top-1 in percent: " + _words(rows, "top1", "supervised_top1"),
        panels=[Panel(series=series, y_label="top-1, %", x_ticks=_names(rows))],
    )


def robustness(rows: Sequence[Row]) -> Chart | None:
    """mCE and mFR over iterations, relative to the first teacher."""
    keys = [("mce", "student", "mCE"), ("mfr", "other", "mFR"), ("supervised_mce", "supervised", "mCE, supervised")]
    keys.append(("supervised_mfr", "all", "mFR, supervised"))
    series = _over_iterations(rows, keys)
    if not series:
        return None
    return Chart(
        name="robustness",
        title="mCE and mFR over iterations",
        caption="mCE: mean error under corruptions; mFR: mean rate at which predictions flip along perturbation "
        "sequences. Both relative to this run's first teacher; lower is better.",
        alt="First teacher = 100: " + _words(rows, *(key for key, _, _ in keys)),
        panels=[Panel(series=series, y_label="first teacher = 100", x_ticks=_names(rows))],
    )


def corruptions(found: Sequence[Net]) -> Chart | None:
    """Error by corruption and severity, a panel for each corruption."""
    errors = {net.label: _by_severity(net.metrics["corruptions"]) for net in found}
    shown = [net for net in found if errors[net.label]]
    if not shown:
        return None
    names = list(errors[shown[0].label])
    panels = []
    for name in names:
        levels = errors[shown[0].label][name]
        series = [
            Series(label=net.label, role=net.role, x=[*errors[net.label][name]], y=[*errors[net.label][name].values()])
            for net in shown
        ]
        ticks = {float(level): str(level) for level in levels}
        title = name.replace("_", " ")
        panels.append(Panel(series=series, title=title, x_ticks=ticks, y_limits=(0, None), size=SMALL))
    kinds = [(name, level) for name in names for level in errors[shown[0].label][name]]
    numbers = [[name, str(level), *(f"{errors[net.label][name][level]:.1f}" for net in shown)] for name, level in kinds]
    means = [f"{net.label} {net.metrics['corruptions']['mean_corruption_error']:.1f}" for net in shown]
    return Chart(
        name="corruptions",
        title="Error by corruption and severity",
        caption=f"Error in percent of {shown[0].num_images['corruptions']:,} images, over severities; "
        "each scale begins at 0 and is its own.",
        alt=f"Mean error in percent under {len(names)} corruptions: {', '.join(means)}",
        panels=panels,
        header=["corruption", "severity", *(net.label for net in shown)],
        numbers=numbers,
    )


def adversarial(found: Sequence[Net]) -> Chart | None:
    """Top-1 over epsilon: FGSM's sweep as a line, PGD as points."""
    attacked = {net.label: {k.removesuffix("/top1"): v for k, v in net.metrics["adversarial"].items()} for net in found}
    shown = [net for net in found if attacked[net.label]]
    if not shown:
        return None
    keys = sorted({key for values in attacked.values() for key in values}, key=lambda key: (report.epsilon(key), key))
    places = {value: float(place) for place, value in enumerate(sorted({report.epsilon(key) for key in keys}))}
    series = []
    for net in shown:
        for kind in ("fgsm", "pgd"):
            mine = [key for key in keys if key.startswith(kind)]
            x, y = [places[report.epsilon(key)] for key in mine], [attacked[net.label][key] for key in mine]
            style = "line" if kind == "fgsm" else "points"
            series.append(Series(label=net.label, role=net.role, x=x, y=y, style=style))
    numbers = [[_attack(key), *(f"{attacked[net.label][key]:.1f}" for net in shown)] for key in keys]
    said = ", ".join(f"{net.label} {attacked[net.label][keys[-1]]:.1f}" for net in shown)
    return Chart(
        name="adversarial",
        title="Top-1 under attack",
        caption=f"Of {shown[0].num_images['adversarial']:,} images. Lines: FGSM; single points: PGD. "
        "Epsilon in grey levels of 0 to 255, places evenly spaced.",
        alt=f"Top-1 in percent under attack; under {_attack(keys[-1])}: {said}",
        panels=[
            Panel(
                series=series,
                x_label="epsilon",
                y_label="top-1, %",
                x_ticks={place: f"{value:g}" for value, place in places.items()},
                y_limits=(0, None),
            )
        ],
        header=["attack", *(net.label for net in shown)],
        numbers=numbers,
    )


def reliability(found: Sequence[Net]) -> Chart | None:
    """How often nets are right that are so sure: top-1 over confidence, by bins with an image."""
    series = []
    for net in found:
        bins = [_values(net, f"reliability_{name}") for name in ("images", "confidence", "top1")]
        if all(len(values) for values in bins):
            full = bins[0] >= LEAST_SHARE * bins[0].sum()
            series.append(Series(label=net.label, role=net.role, x=bins[1][full].tolist(), y=bins[2][full].tolist()))
    if not series:
        return None
    errors = [f"{net.label} {net.metrics['accuracy']['ece']:.1f}" for net in found if "ece" in net.metrics["accuracy"]]
    return Chart(
        name="reliability",
        title="Reliability",
        caption="Share that is right, by confidence; on the dashed line confidences can be believed. "
        f"Without bins of less than {LEAST_SHARE:.1%} of the images. "
        f"Expected calibration error in percent: {', '.join(errors)}.",
        alt=f"Reliability diagram; expected calibration error in percent: {', '.join(errors)}",
        panels=[
            Panel(
                series=series,
                x_label="confidence, %",
                y_label="top-1, %",
                x_limits=(0, 103),
                y_limits=(0, 103),
                diagonal=True,
            )
        ],
    )


def _over_iterations(rows: Sequence[Row], keys: Sequence[tuple[str, str, str]]) -> list[Series]:
    found = []
    for key, role, label in keys:
        points = [(row["iteration"], row[key]) for row in rows if row.get(key) is not None]
        if points:
            x, y = zip(*points, strict=True)
            found.append(Series(label=label, role=role, x=x, y=y))
    return found


def _names(rows: Sequence[Row]) -> dict[float, str]:
    return {row["iteration"]: f"student {row['iteration']}" if row["iteration"] else "teacher" for row in rows}


def _words(rows: Sequence[Row], *keys: str) -> str:
    """The numbers over iterations in words."""
    names = _names(rows)
    said = [
        f"{names[row['iteration']]} {key.replace('_', ' ')} {row[key]:.1f}"
        for key in keys
        for row in rows
        if row.get(key) is not None
    ]
    return ", ".join(said)


def _attack(key: str) -> str:
    """FGSM 2 of fgsm_2."""
    return key.replace("_", " ").upper()


def _error(percent: float, num_images: int) -> float:
    return math.sqrt(percent * (100 - percent) / num_images)


def _by_severity(metrics: Mapping[str, float]) -> dict[str, dict[int, float]]:
    """Errors in percent by corruption and severity."""
    found: dict[str, dict[int, float]] = {}
    for key, value in metrics.items():
        kind, *where = key.split("/")
        if kind == "corruption_error" and len(where) == 2:
            found.setdefault(where[0], {})[int(where[1])] = value
    return found


def _values(net: Net, name: str) -> NDArray:
    """An array of an evaluation; NaN where it holds nothing, as JSON has no such number."""
    return np.array(net.arrays.get(name, {}).get("values", []), dtype=float)
