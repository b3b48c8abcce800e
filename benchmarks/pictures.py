"""The pictures of a run: ratios to our own time, and how time and memory grow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import OURS
from benchmarks.report import Entry


def plots(record: dict[str, Any], folder: Path) -> list[Path]:
    """Draw the ratios and the growth curves."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "metanotes"
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    entries = [
        entry
        for entry in record["workloads"]
        if entry["ratio_to"] == OURS and any("ratio" in row for row in entry["contenders"])
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
    for axes, entry in zip(panels, entries, strict=False):
        rows = [row for row in reversed(entry["contenders"]) if "ratio" in row]
        low, middle, high = zip(*(row["ratio"] for row in rows), strict=True)
        names = [row["name"] + (" (wrong)" if row.get("wrong") else "") for row in rows]
        colors = ["tab:blue" if row["name"].startswith(OURS) else "0.7" for row in rows]
        spread = [
            [m - n for m, n in zip(middle, low, strict=True)],
            [n - m for m, n in zip(middle, high, strict=True)],
        ]
        axes.barh(names, middle, xerr=spread, color=colors, error_kw={"lw": 1})
        axes.axvline(1, color="black", lw=0.8)
        axes.set_title(entry["workload"], fontsize=8)
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
