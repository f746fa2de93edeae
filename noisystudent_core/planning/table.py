"""The plan as text: a row for each stage, the arithmetic below, and what to turn to make it cheaper."""

from collections.abc import Sequence
from typing import Any

from noisystudent_core.planning.costs import Priced, duration

COLUMNS = ("stage", "images", "parts", "groups", "storage", "memory", "device-hours", "time", "known by")


def row(one: Priced) -> dict[str, Any]:
    """A stage as plain numbers."""
    stage = one.stage
    return {
        "stage": stage.name,
        "images": stage.images,
        "parts": stage.parts,
        "groups": stage.groups,
        "storage_gb": stage.storage_bytes / 1e9,
        "memory_gb": stage.memory_bytes / 1e9,
        "num_devices": one.num_devices,
        "device_hours": one.device_s / 3600,
        "seconds": one.seconds,
        "start_s": one.start_s,
        "known_by": one.how,
        "arithmetic": list(one.arithmetic),
        "moved_by": stage.moved_by,
    }


def totals(placed: Sequence[Priced], machine: str, num_devices: int) -> dict[str, Any]:
    """The run's sums, and which stage dominates."""
    dearest = max(placed, key=lambda one: one.device_s)
    return {
        "device": machine,
        "num_devices": num_devices,
        "wall_s": max(one.end_s for one in placed),
        "device_hours": sum(one.device_s for one in placed) / 3600,
        "storage_gb": sum(one.stage.storage_bytes for one in placed) / 1e9,
        "dominant": dearest.stage.name,
        "dominant_share": dearest.device_s / max(1e-9, sum(one.device_s for one in placed)),
        "moved_by": dearest.stage.moved_by,
    }


def text(rows: Sequence[dict[str, Any]], sums: dict[str, Any], notes: Sequence[str]) -> str:
    """Notes, table, arithmetic, and the sums."""
    cells = [list(COLUMNS), *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
    lines = [*notes, ""]
    lines += ["  ".join(_placed(cell, widths[i], i) for i, cell in enumerate(line)) for line in cells]
    lines += ["", "How each comes about:"]
    for each in rows:
        lines += [f"  {each['stage']}: {line}" for line in each["arithmetic"]]
    return "\n".join([*lines, "", *_summary(sums)])


def brief(rows: Sequence[dict[str, Any]], sums: dict[str, Any]) -> str:
    """The plan in one line and its dearest stages, for a log."""
    dearest = sorted(rows, key=lambda row: -row["device_hours"])[:5]
    stages = ", ".join(f"{each['stage']} {duration(each['seconds'])} ({each['known_by']})" for each in dearest)
    return f"plan: {' '.join(_summary(sums))} Dearest: {stages}. `noisy-student plan` shows the arithmetic"


def _summary(sums: dict[str, Any]) -> list[str]:
    return [
        f"About {duration(sums['wall_s'])} on {sums['num_devices']} x {sums['device']}: "
        f"{sums['device_hours']:,.2f} device-hours, {_gb(sums['storage_gb'])} stored.",
        f"{sums['dominant']} takes {sums['dominant_share']:.0%} of the device-hours"
        + (f"; what moves it: {sums['moved_by']}." if sums["moved_by"] else "."),
    ]


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        row["stage"],
        f"{row['images']:,}" if row["images"] else "",
        f"{row['parts']:,}" if row["parts"] else "",
        f"{row['groups']:,}" if row["groups"] else "",
        _gb(row["storage_gb"]),
        _gb(row["memory_gb"]) if row["memory_gb"] else "",
        f"{row['device_hours']:,.3g}" if row["device_hours"] < 100 else f"{row['device_hours']:,.0f}",
        duration(row["seconds"]),
        row["known_by"],
    ]


def _gb(number: float) -> str:
    return f"{number:,.0f} GB" if number >= 10 else f"{number:.2f} GB" if number >= 0.005 else f"{number * 1e3:.1f} MB"


def _placed(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column in (0, len(COLUMNS) - 1) else cell.rjust(width)
