"""The results page: every record of results/*.json as Markdown, and its curve as a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def page(folder: Path, pictures: Path) -> str:
    """Markdown for all records of a folder; the curves are drawn into `pictures`."""
    paths = sorted(folder.glob("*.json"))
    if not paths:
        return "No long run has been recorded yet.\n"
    return "\n".join(record(path, pictures) for path in paths)


def record(path: Path, pictures: Path) -> str:
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    rows = data["rows"]
    lines = [f"(result-{path.stem.replace('_', '-')})=", f"## {data['title']}", ""]
    lines += [str(data["protocol"]), ""]
    lines += [*(settings(rows) if "setting" in rows[0] else table(rows)), ""]
    if data.get("published"):
        lines += ["Published figures, from other protocols and machines:", ""]
        lines += [_row(["method", "published", "source"]), _row(["---"] * 3)]
        for row in data["published"]:
            lines.append(_row([row["name"], row["value"], f"{{cite:t}}`{row['cite']}`"]))
        lines.append("")
    if data.get("curve") and data["curve"].get("iteration"):
        name, alt = curve(data, path.stem, rows[0]["unit"], pictures)
        lines += [f"```{{image}} _generated/{name}", f":alt: {alt}", ":width: 100%", "```", ""]
    if data.get("runs"):
        name, alt = curves(data["runs"], path.stem, pictures)
        lines += [f"```{{image}} _generated/{name}", f":alt: {alt}", ":width: 100%", "```", ""]
    wall = data["wall_seconds"]
    wall = wall if isinstance(wall, list) else [wall]
    several = len(wall) > 1
    lines += [f"Made again by `{data['command']}`.", ""]
    lines += [":::{dropdown} Configuration, machine and time", ""]
    lines += [f"- Seeds: {', '.join(str(s) for s in data['seeds'])}"]
    lines += [f"- Machine: {data['machine']}"]
    lines += [f"- Wall time{' of each run' if several else ''}: {', '.join(map(duration, wall))}"]
    lines += [f"- `{key}`: `{value}`" for key, value in data["config"].items()]
    lines += ["", ":::", ""]
    return "\n".join(lines)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """One line for each score, a column for each seed; columns that say nothing are left out."""
    seeds = sorted({row["seed"] for row in rows if row.get("seed") is not None})
    groups: dict[tuple[Any, ...], dict[Any, str]] = {}
    for row in rows:
        key = (row["name"], row["tasks"], row.get("transductive"), row.get("note"))
        groups.setdefault(key, {})[row.get("seed")] = score(row)
    transduction = any(row.get("transductive") is not None for row in rows)
    notes = any(row.get("note") for row in rows)
    columns = seeds or [None]
    head = ["method", *(f"seed {seed}" if seeds else "result" for seed in columns), "test tasks"]
    head += ["transductive"] * transduction + ["note"] * notes
    lines = [_row(head), _row(["---"] * len(head))]
    for (name, tasks, transductive, note), values in groups.items():
        cells = [
            name,
            *(values.get(seed, values.get(None, "")) for seed in columns),
            f"{tasks:,}".replace(",", " "),
        ]
        if transduction:
            cells.append({True: "yes", False: "no", None: ""}[transductive])
        lines.append(_row(cells + [note or ""] * notes))
    return lines


def settings(rows: list[dict[str, Any]]) -> list[str]:
    """A line a learner, a column a setting: the score of every seed, and the widest interval."""
    columns = list(dict.fromkeys(row["setting"] for row in rows))
    lines = []
    for transductive, title in ((True, "Transductive"), (False, "Not transductive")):
        lines += [f"**{title}**, accuracy in %, seed by seed, ± the widest of their intervals:", ""]
        lines += [_row(["learner", *columns]), _row(["---"] * (1 + len(columns)))]
        for name in dict.fromkeys(row["name"] for row in rows):
            cells = []
            for setting in columns:
                key = name, setting, transductive
                here = [
                    row for row in rows if (row["name"], row["setting"], row["transductive"]) == key
                ]
                means = ", ".join(f"{100 * row['value']:.1f}" for row in here)
                width = max((row["ci95"] for row in here), default=0)
                cells.append(f"{means} ± {100 * width:.1f}" if here else "")
            lines.append(_row([name, *cells]))
        lines.append("")
    return lines


def score(row: dict[str, Any]) -> str:
    """A row's mean with its 95 % half-width, in the unit's custom."""
    if row["unit"] == "accuracy":
        return f"{100 * row['value']:.1f} ± {100 * row['ci95']:.1f} %"
    digits = 3 if row["unit"] == "loss" and abs(row["value"]) < 10 else 2
    return f"{row['value']:.{digits}f} ± {row['ci95']:.{digits}f}"


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _row(cells: list[str]) -> str:
    """A line of a table; a number is not broken off its interval or its percent sign."""
    safe = [str(cell).replace("|", "\\|") for cell in cells]
    return (
        "| "
        + " | ".join(s.replace(" ± ", "\u00a0±\u00a0").replace(" %", "\u00a0%") for s in safe)
        + " |"
    )


def _figure(height: float) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "metanotes"
    figure = Figure(figsize=(7, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def curves(runs: list[dict[str, Any]], stem: str, pictures: Path) -> tuple[str, str]:
    """Draw the validation accuracy of every run; return the file name and alternative text."""
    figure, axes = _figure(height=4.2)
    names = list(dict.fromkeys(run["what"] for run in runs))
    for run in runs:
        first = next(other for other in runs if other["what"] == run["what"])
        share = [at / run["iterations"] * run["seconds"] / 60 for at in run["curve"]["iteration"]]
        label = run["what"] if run is first else None
        axes.plot(share, run["curve"]["value"], color=f"C{names.index(run['what'])}", label=label)
    pictures.mkdir(parents=True, exist_ok=True)
    axes.set(xlabel="minutes of one run", ylabel="accuracy, 100 validation tasks")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    figure.savefig(pictures / f"{stem}.svg", metadata={"Date": None})
    ends = ", ".join(f"{run['what']} {run['curve']['value'][-1]:.3f}" for run in runs)
    return f"{stem}.svg", f"Validation accuracy against time; where each run ends: {ends}."


def curve(data: dict[str, Any], stem: str, unit: str, pictures: Path) -> tuple[str, str]:
    """Draw a learning curve; return its file name and its alternative text."""
    x, y = data["curve"]["iteration"], data["curve"]["value"]
    label = "accuracy" if unit == "accuracy" else "mean squared error"
    label = data["curve"].get("label", f"{label} on new tasks")
    pictures.mkdir(parents=True, exist_ok=True)
    figure, axes = _figure(height=3)
    axes.plot(x, y)
    axes.set(xlabel="meta-iteration", ylabel=label)
    figure.savefig(pictures / f"{stem}.svg", metadata={"Date": None})
    way = f"from {y[0]:.3g} at iteration {x[0]} to {y[-1]:.3g} at iteration {x[-1]}"
    return f"{stem}.svg", f"Learning curve: {label} goes {way}."
