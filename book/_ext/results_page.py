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
    notes = any(row.get("note") for row in rows)
    seeds = any(row.get("seed") is not None for row in rows)
    head = ["method", "result", "test tasks", "transductive"]
    head += ["seed"] * seeds + ["note"] * notes
    lines = [f"(result-{path.stem.replace('_', '-')})=", f"## {data['title']}", ""]
    lines += [str(data["protocol"]), ""]
    lines += _row(head), _row(["---"] * len(head))
    for row in rows:
        cells = [row["name"], score(row), f"{row['tasks']:,}".replace(",", " ")]
        cells.append({True: "yes", False: "no", None: "does not apply"}[row.get("transductive")])
        if seeds:
            cells.append("" if row.get("seed") is None else str(row["seed"]))
        if notes:
            cells.append(row.get("note") or "")
        lines.append(_row(cells))
    lines.append("")
    if data.get("published"):
        lines += ["Published figures, from other protocols and machines:", ""]
        lines += [_row(["method", "published", "source"]), _row(["---"] * 3)]
        for row in data["published"]:
            lines.append(_row([row["name"], row["value"], f"{{cite:t}}`{row['cite']}`"]))
        lines.append("")
    if data.get("curve") and data["curve"].get("iteration"):
        name, alt = curve(data, path.stem, rows[0]["unit"], pictures)
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


def score(row: dict[str, Any]) -> str:
    """A row's mean with its 95 % half-width, in the unit's custom."""
    if row["unit"] == "accuracy":
        return f"{100 * row['value']:.2f} ± {100 * row['ci95']:.2f} %"
    return f"{row['value']:.3f} ± {row['ci95']:.3f} (MSE)"


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


def curve(data: dict[str, Any], stem: str, unit: str, pictures: Path) -> tuple[str, str]:
    """Draw a learning curve; return its file name and its alternative text."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "metanotes"
    x, y = data["curve"]["iteration"], data["curve"]["value"]
    label = "accuracy on new tasks" if unit == "accuracy" else "mean squared error on new tasks"
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(x, y)
    axes.set(xlabel="meta-iteration", ylabel=label)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    pictures.mkdir(parents=True, exist_ok=True)
    figure.savefig(pictures / f"{stem}.svg", metadata={"Date": None})
    way = f"from {y[0]:.3g} at iteration {x[0]} to {y[-1]:.3g} at iteration {x[-1]}"
    return f"{stem}.svg", f"Learning curve: {label} goes {way}."
