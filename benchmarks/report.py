"""The table, the pictures and the record of a run."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import Floor, Row, Workload, quartiles

Entry = dict[str, Any]  # a workload's part of the record


def entry(workload: Workload, rows: Sequence[Row], floor: Floor | None = None) -> Entry:
    """What is kept of a workload: milliseconds, megabytes, and ratios to our own time."""
    ours = next(row.seconds for row in rows if row.contender == workload.ours)
    made: Entry = {"workload": workload.name, "ratio_to": workload.ours, "contenders": []}
    for row in rows:
        kept: Entry = {"name": row.contender}
        if row.error is not None:
            kept |= {"error": row.error, "wrong": row.wrong}
        if row.seconds:
            kept["ms"] = _rounded(1e3 * q for q in quartiles(row.seconds))
            kept["runs"] = len(row.seconds)
        if row.seconds and ours:
            pairs = zip(row.seconds, ours, strict=True)
            kept["ratio"] = _rounded(quartiles([theirs / own for theirs, own in pairs]))
        if row.first is not None:
            kept["first_ms"] = _round(1e3 * row.first)
        if row.peak is not None:
            kept["peak_mb"] = _round(row.peak / 1e6)
        if row.note:
            kept["note"] = row.note
        made["contenders"].append(kept)
    if floor is not None:
        made["floor"] = {
            "arithmetic_ms": _round(1e3 * floor.arithmetic),
            "memory_ms": _round(1e3 * floor.memory),
            "dispatch_ms": _round(1e3 * floor.dispatch),
            "gflop": _round(floor.counts.flops / 1e9),
            "saved_mb": _round(floor.counts.saved / 1e6),
            "operations": floor.counts.operations,
        }
    return made


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def _rounded(values: Any) -> list[float]:
    return [_round(value) for value in values]


HEAD = f"{'':28}{'ms':>9}  {'(quartiles)':20}{'ratio':>6}  {'(quartiles)':18}{'MB':>7}  {'error':7}"


def table(made: Entry) -> str:
    """A workload's lines of the table."""
    lines = [made["workload"]]
    for row in made["contenders"]:
        line = f"  {row['name']:26}"
        if "ms" in row:
            low, middle, high = row["ms"]
            line += f"{middle:9.4g}  {f'({low:.4g} to {high:.4g})':20}"
            if "ratio" in row:
                low, middle, high = row["ratio"]
                line += f"{middle:6.3g}  {f'({low:.3g} to {high:.3g})':18}"
            else:
                line += " " * 26
            line += f"{row['peak_mb']:7.1f}" if "peak_mb" in row else " " * 7
        if "error" in row:
            line += f"  {row['error']:7.0e}" + (" WRONG" if row["wrong"] else "")
        if "note" in row:
            line += f"  left out: {row['note']}"
        lines.append(line.rstrip())
    if "floor" in made:
        floor = made["floor"]
        lines.append(
            f"  floor: arithmetic {floor['arithmetic_ms']:.3g} ms ({floor['gflop']:.3g} GFLOP), "
            f"memory {floor['memory_ms']:.3g} ms ({floor['saved_mb']:.3g} MB saved), "
            f"operations one by one {floor['dispatch_ms']:.3g} ms"
        )
    return "\n".join(lines) + "\n"


def write(path: Path, record: dict[str, Any]) -> None:
    """Write the record to a temporary name beside its own, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def plots(record: dict[str, Any], folder: Path) -> list[Path]:
    """Draw the ratios and the growth curves."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "metanotes"
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    entries = [
        made
        for made in record["workloads"]
        if made["ratio_to"] == "metanotes" and any("ratio" in row for row in made["contenders"])
    ]
    if entries:
        drawn.append(_ratios(entries, folder / f"{record['name']}-ratios.svg"))
    if record.get("growth"):
        drawn.append(_growth(record["growth"], folder / f"{record['name']}-growth.svg"))
    return drawn


def _ratios(entries: Sequence[Entry], path: Path) -> Path:
    """A panel a workload: how many times as long as ours each contender takes."""
    from matplotlib.figure import Figure

    columns = 3
    lines = -(-len(entries) // columns)
    figure = Figure(figsize=(5 * columns, 2.1 * lines), layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes, made in zip(panels, entries, strict=False):
        rows = [row for row in reversed(made["contenders"]) if "ratio" in row]
        low, middle, high = zip(*(row["ratio"] for row in rows), strict=True)
        names = [row["name"] + (" (wrong)" if row.get("wrong") else "") for row in rows]
        colors = ["tab:blue" if row["name"].startswith("metanotes") else "0.7" for row in rows]
        spread = [
            [m - n for m, n in zip(middle, low, strict=True)],
            [n - m for m, n in zip(middle, high, strict=True)],
        ]
        axes.barh(names, middle, xerr=spread, color=colors, error_kw={"lw": 1})
        axes.axvline(1, color="black", lw=0.8)
        axes.set_title(made["workload"], fontsize=8)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(entries) :]:
        axes.set_visible(False)
    figure.supxlabel("times as long as metanotes (median and quartiles)", fontsize=9)
    figure.savefig(path, metadata={"Date": None})
    return path


def _growth(points: Sequence[dict[str, Any]], path: Path) -> Path:
    """Time and memory against tasks, steps and width."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    axes_names = list(dict.fromkeys(point["axis"] for point in points))
    figure = Figure(figsize=(4 * len(axes_names), 6), layout="constrained")
    panels = figure.subplots(2, len(axes_names), squeeze=False)
    for column, axis in enumerate(axes_names):
        here = [point for point in points if point["axis"] == axis]
        for name in dict.fromkeys(r["name"] for point in here for r in point["contenders"]):
            for line, quantity in enumerate(("ms", "peak_mb")):
                pairs = [
                    (point["value"], row[quantity])
                    for point in here
                    for row in point["contenders"]
                    if row["name"] == name and quantity in row
                ]
                if not pairs:
                    continue
                x, y = zip(*pairs, strict=True)
                panel = panels[line][column]
                if quantity == "ms":
                    low, y, high = zip(*y, strict=True)
                    panel.fill_between(x, low, high, alpha=0.2)
                panel.plot(x, y, marker="o", ms=3, label=name)
                panel.set(xlabel=axis, xscale="log", yscale="log", xticks=x, xticklabels=x)
                panel.set_ylabel("time, ms" if quantity == "ms" else "peak memory, MB")
                panel.xaxis.set_minor_locator(NullLocator())
    panels[0][0].legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    return path
