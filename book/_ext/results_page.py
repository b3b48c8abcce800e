"""The results page: every record of results/*.json as Markdown, and its curves as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metanotes.notebook import Record, looks_of, record, record_names

LINES = 7  # of a panel, at most


def page(folder: Path, pictures: Path) -> str:
    """Markdown for all records of a folder; the curves are drawn into `pictures`."""
    names = record_names(folder=folder)
    if not names:
        return "No long run has been recorded yet.\n"
    return "\n".join(section(record(name, folder), pictures) for name in names)


def section(run: Record, pictures: Path) -> str:
    """One record."""
    lines = [f"(result-{run.name.replace('_', '-')})=", f"## {run.title}", "", run.protocol, ""]
    lines += scores(run)
    if run.published:
        lines += ["Published figures, from other protocols and machines:", ""]
        rows = [[row["name"], row["value"], f"{{cite:t}}`{row['cite']}`"] for row in run.published]
        lines += [*table(["method", "published", "source"], rows), ""]
    if any("curve" in trained for trained in run.runs):
        name, alt = picture(run, pictures)
        lines += [f"```{{image}} _generated/{name}", f":alt: {alt}", ":width: 100%", "```", ""]
    lines += [f"Made by `{run.command}`; made again, from nothing, with `--fresh` added.", ""]
    lines += [":::{dropdown} Configuration, machine and time", ""]
    lines += [f"- Seeds: {', '.join(map(str, run.seeds))}"]
    lines += [f"- Machine: {machine}" for machine in run.machines]
    if run.runs:
        times = ", ".join(duration(trained["seconds"]) for trained in run.runs)
        lines += [f"- Wall time{' of each training' if len(run.runs) > 1 else ''}: {times}"]
    lines += [f"- `{key}`: `{value}`" for key, value in run.config.items()]
    lines += ["", ":::", ""]
    return "\n".join(lines)


def scores(run: Record) -> list[str]:
    """The rows as tables: accuracies in several settings in two, transductive and not."""
    if not run.settings or any(row["unit"] != "accuracy" for row in run.rows):
        return [*table(*run.grid()), ""]
    lines = []
    for transductive, title in ((True, "Transductive"), (False, "Not transductive")):
        if not any(row["transductive"] is transductive for row in run.rows):
            continue
        lines += [f"**{title}**, accuracy in %, seed by seed, ± the widest of their intervals:", ""]
        lines += [*table(*run.grid(transductive=transductive)), ""]
    return lines


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A table in Markdown, as lines; a column of notes is kept wide enough to read."""
    if head[-1] == "note":
        rows = [[*cells, f'<span class="note">{note}</span>'] for *cells, note in rows]
    return [_row(head), _row(["---"] * len(head)), *map(_row, rows)]


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


def _figure(panels: int, height: float) -> tuple[Any, list[Any]]:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "metanotes"
    figure = Figure(figsize=(7, height), layout="constrained")
    axes = list(figure.subplots(panels, 1, sharex=True, sharey=True, squeeze=False).flat)
    for ax in axes:
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def panels_of(names: list[str], settings: list[str]) -> list[list[str]]:
    """Trainings that are drawn in one panel: of one setting, and at most `LINES`."""
    groups = [[name for name in names if name.endswith(f" {setting}")] for setting in settings]
    others = [name for name in names if not any(name in group for group in groups)]
    return [
        group[start : start + LINES]
        for group in (others, *groups)
        for start in range(0, len(group), LINES)
    ]


def picture(run: Record, pictures: Path) -> tuple[str, str]:
    """Draw the curve of every training; return the file name and alternative text.

    One curve is drawn against the iteration; several, whose iterations are not the same work,
    against the time.
    """
    runs = [trained for trained in run.runs if "curve" in trained]
    names = list(dict.fromkeys(trained["what"] for trained in runs))
    panels = panels_of(names, list(run.settings))
    figure, axes = _figure(len(panels), height=2.6 * len(panels) + (0.4 if len(names) > 1 else 0))
    for ax, group in zip(axes, panels, strict=True):
        for name, (color, style) in looks_of(group).items():
            for seed, trained in enumerate(t for t in runs if t["what"] == name):
                at = trained["curve"]["iteration"]
                if len(runs) > 1:
                    at = [n / trained["iterations"] * trained["seconds"] / 60 for n in at]
                label = None if seed else name
                ax.plot(at, trained["curve"]["value"], style, color=color, label=label)
        ax.set(ylabel=run.curve_label)
        ax.yaxis.label.set_size(8)
        if len(names) > 1:
            ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    axes[-1].set(xlabel="minutes of one training" if len(runs) > 1 else "meta-iteration")
    pictures.mkdir(parents=True, exist_ok=True)
    figure.savefig(pictures / f"{run.name}.svg", metadata={"Date": None})
    ends = ", ".join(f"{trained['what']} {trained['curve']['value'][-1]:.3f}" for trained in runs)
    alt = f"Learning curves, {run.curve_label}; where each training ends: {ends}."
    return f"{run.name}.svg", alt
