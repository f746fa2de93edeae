"""Charts of one model alone: its classes, what it takes for what, and how often it changes its mind."""

from collections.abc import Mapping, Sequence

from noisystudent_core.evaluation.charts import MAX_TICKS, Chart, Panel, Series, by_name, shortened
from noisystudent_core.evaluation.plots import Net
from noisystudent_core.evaluation.selection_plots import MOST_NAMED_CLASSES

MOST_CONFUSED = 20  # pairs of classes
SHORT = 12  # letters of each of a pair
FLIPS = "flip_probability/"
SQUARE, PAIRS = "the stronger a colour, the larger the share of the true class", "the pairs confused most often"
CELL = 0.42  # inches of a cell


def classes(net: Net, names: Sequence[str] | None) -> Chart | None:
    """Top-1 of each class that has an image: by name, or by rank where there are too many."""
    shares, images = ([*net.arrays.get(name, {}).get("values", [])] for name in ("class_top1", "class_images"))
    found = [
        (_name(names, i), share, number) for i, (share, number) in enumerate(zip(shares, images, strict=True)) if number
    ]
    if not found:
        return None
    few = len(found) <= MOST_NAMED_CLASSES
    ordered = found if few else sorted(found, key=lambda row: row[1])
    places = [-float(place) if few else place + 1.0 for place in range(len(ordered))]
    top1 = [share for _, share, _ in ordered]
    if few:
        series = [Series(label=net.label, role=net.role, x=top1, y=places, style="points")]
        panel = by_name(series, [shortened(name) for name, _, _ in ordered], "top-1, %", (None, None))
    else:
        series = [Series(label=net.label, role=net.role, x=places, y=top1)]
        panel = Panel(series=series, x_label="class, by rank", y_label="top-1, %", y_limits=(0, 103))
    worst, share, _ = min(found, key=lambda row: row[1])
    return Chart(
        name="classes",
        title="Top-1 of each class",
        caption=f"Share of each class's images that is right, of {sum(images):,} images in all; lowest: {worst}."
        + ("" if few else f" The numbers are of the {MOST_NAMED_CLASSES} lowest."),
        alt=f"Top-1 in percent of {len(found):,} classes, from {worst} {share:.1f} to {max(top1):.1f}",
        panels=[panel],
        header=["class", "top-1", "images"],
        numbers=[[name, f"{share:.1f}", f"{number:,}"] for name, share, number in ordered[:MOST_NAMED_CLASSES]],
    )


def confusion(net: Net, counts: Mapping[tuple[int, int], int], names: Sequence[str] | None) -> Chart | None:
    """What is taken for what: all classes as a square where they are few, else the pairs confused most often.

    `counts` maps (true, predicted) to images; a pair without any is missing.
    """
    wrong = sorted(((n, pair) for pair, n in counts.items() if pair[0] != pair[1]), key=lambda row: (-row[0], row[1]))
    num_classes = len(net.arrays.get("class_images", {}).get("values", []))
    few = num_classes <= MAX_TICKS
    if not counts or not (few or wrong):
        return None
    most = [(_name(names, true), _name(names, given), n) for n, (true, given) in wrong[:MOST_CONFUSED]]
    said = ", ".join(f"{given} for {true} {number:,}" for true, given, number in most[:3])
    return Chart(
        name="confusion",
        title="What is taken for what",
        caption=f"Images by true class and by what the model says: {SQUARE if few else PAIRS}.",
        alt=f"Images whose class is mistaken, the most frequent: {said or 'none'}",
        panels=[_square(counts, num_classes, names) if few else _pairs(net, most)],
        header=["true → said", "images"],
        numbers=[[f"{true} → {given}", f"{number:,}"] for true, given, number in most],
    )


def _square(counts: Mapping[tuple[int, int], int], num_classes: int, names: Sequence[str] | None) -> Panel:
    ticks = {float(number): shortened(_name(names, number)) for number in range(num_classes)}
    side = max(2.6, CELL * num_classes)
    return Panel(
        series=[],
        x_label="the model says",
        y_label="true class",
        x_ticks=ticks,
        y_ticks=ticks,
        x_limits=(-0.5, num_classes - 0.5),
        y_limits=(num_classes - 0.5, -0.5),
        cells=[[counts.get((row, column), 0) for column in range(num_classes)] for row in range(num_classes)],
        size=(side + 0.8, side + 0.6),
    )


def _pairs(net: Net, most: Sequence[tuple[str, str, int]]) -> Panel:
    numbers, places = [float(n) for _, _, n in most], [-float(place) for place in range(len(most))]
    series = Series(label=net.label, role=net.role, x=numbers, y=places, style="points")
    names = [f"{shortened(true, SHORT)} → {shortened(given, SHORT)}" for true, given, _ in most]
    return by_name([series], names, "images", _from_zero(numbers))


def flips(net: Net) -> Chart | None:
    """How often predictions flip along each perturbation."""
    found = {key.removeprefix(FLIPS): v for key, v in net.metrics["perturbations"].items() if key.startswith(FLIPS)}
    if not found:
        return None
    places = [-float(place) for place in range(len(found))]
    series = Series(label=net.label, role=net.role, x=[*found.values()], y=places, style="points")
    mean = net.metrics["perturbations"]["mean_flip_probability"]
    return Chart(
        name="flips",
        title="Flips by perturbation",
        caption="Share of a sequence's frames whose predicted class is not that of the frame before (noise: of the "
        f"first frame), over {net.num_images['perturbations']:,} sequences each; lower is better.",
        alt=f"Flip probability in percent under {len(found)} perturbations, mean {mean:.1f}",
        panels=[
            by_name([series], [name.replace("_", " ") for name in found], "flips, %", _from_zero([*found.values()]))
        ],
        header=["perturbation", "flips, %"],
        numbers=[[name, f"{value:.2f}"] for name, value in found.items()],
    )


def _from_zero(values: Sequence[float]) -> tuple[float, float]:
    """Limits of an axis from 0, with room for the markers at its ends."""
    most = max(values) or 1.0
    return -0.03 * most, 1.05 * most


def _name(names: Sequence[str] | None, number: int) -> str:
    return names[number] if names else str(number)
