"""What the page *From one core to many machines* says of its records.

    {{ machines growth }}     becomes a picture, `networks`, `large` and `ranks` tables

of results/machines/growth.json and ranks.json. What has not been measured is said so, with the
command that would.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import results_page
from sphinx.application import Sphinx

WORD = re.compile(r"\{\{ machines (\w+) \}\}")
Rows = list[dict[str, Any]]
GIGABITS = {10: "-", 100: "--"}
RANKS = [1, 2, 4, 8, 16, 32, 64]
TASKS = 64  # of a batch, in the computed curves
GPU = 10e12  # operations a second, assumed


def fill_in(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace the words of a page."""
    if "{{ machines " not in source[0]:
        return
    root = Path(app.srcdir)
    for path in (root / "results" / "machines").glob("*.json"):
        app.env.note_dependency(str(path))
    source[0] = filled_in(source[0], root / "results" / "machines", root / "book" / "_generated")


def filled_in(text: str, folder: Path, pictures: Path) -> str:
    """A page, its words replaced by what the records of a folder say."""
    return WORD.sub(lambda word: said(word[1], folder, pictures), text)


def said(word: str, folder: Path, pictures: Path) -> str:
    """What stands in the place of a word."""
    if word == "ranks":
        path = folder / "ranks.json"
        if not path.exists():
            return (
                "(The speed of two ranks has not been recorded: `python tools/ranks.py --record`.)"
            )
        return ranks(json.loads(path.read_text(encoding="utf-8")))
    path = folder / "growth.json"
    sections = json.loads(path.read_text(encoding="utf-8"))["sections"] if path.exists() else {}
    section = "networks" if word == "speedup" else word
    if section not in sections:
        return f"(Not recorded yet: `python -m benchmarks.machines --only {section}`.)"
    return WORDS[word](sections, pictures)


def origin(section: dict[str, Any]) -> str:
    """On what a section was measured."""
    return f"{section['processor']}, one core, torch {section['torch']}"


# ------------------------------------------------------------------------------------- pictures


def figure(columns: int, height: float) -> tuple[Any, Any]:
    """Panels side by side, in one or two rows."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "metanotes"
    drawn = Figure(figsize=(7.5, height), layout="constrained")
    panels = drawn.subplots(2 if height > 3 else 1, columns, squeeze=False)
    for ax in panels.flat:
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    return drawn, panels


def image(name: str, drawn: Any, alt: str, pictures: Path) -> str:
    """The directive that shows a picture, which is written."""
    pictures.mkdir(parents=True, exist_ok=True)
    drawn.savefig(pictures / name, metadata={"Date": None})
    return "\n".join([f"```{{image}} _generated/{name}", f":alt: {alt}", ":width: 100%", "```"])


AXES = {"tasks": "tasks", "ways": "ways (classes)", "size": "pixels on a side"}


def growth(sections: dict[str, Any], pictures: Path) -> str:
    """Time and memory along each axis, ours and the plain loop's."""
    rows: Rows = sections["growth"]["rows"]
    drawn, panels = figure(len(AXES), height=4.4)
    ends = []
    for column, (axis, label) in enumerate(AXES.items()):
        for name, color in (("plain loop", "0.5"), ("metanotes", "C0")):
            here = [r for r in rows if r["axis"] == axis and r["contender"] == name]
            x = [r["value"] for r in here]
            panels[0][column].plot(x, [r["processor_seconds"] for r in here], "o-", ms=3,
                                   color=color, label=name)  # fmt: skip
            y = [r["peak_mb"] for r in here]
            panels[1][column].plot(x, y, "o-", ms=3, color=color)
            if name == "metanotes" and here:
                ends.append(
                    f"{axis} {x[0]} to {x[-1]}: {here[0]['processor_seconds']} to "
                    f"{here[-1]['processor_seconds']} s, {y[0]} to {y[-1]} MB"
                )
        for line in range(2):
            ax = panels[line][column]
            ax.set(xscale="log", yscale="log", xticks=x, xticklabels=x)
            ax.minorticks_off()
        panels[1][column].set_xlabel(label)
    panels[0][0].set_ylabel("processor seconds")
    panels[1][0].set_ylabel("peak memory, MB")
    panels[0][0].legend(
        fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0, 1.3), ncols=2
    )
    alt = f"Time and memory of a meta-step, metanotes. {'; '.join(ends)}."
    words = f"\n\nMeasured on {origin(sections['growth'])}."
    return image("machines-growth.svg", drawn, alt, pictures) + words


def speedup(sections: dict[str, Any], pictures: Path) -> str:
    """How many times as fast R ranks are, computed, on this processor and on a GPU."""
    rows: Rows = sections["networks"]["rows"]
    drawn, panels = figure(2, height=2.9)
    ends = []
    for column, where in enumerate(("cores as measured", f"GPUs of {GPU / 1e12:.0f} TFLOP/s")):
        ax = panels[0][column]
        ax.plot(RANKS, RANKS, color="0.8", lw=1)
        for number, row in enumerate(rows):
            speed = GPU if column else row["flops_measured"] / row["processor_seconds"]
            for gbit, style in GIGABITS.items():
                y = [times_as_fast(row, r, gbit, speed) for r in RANKS]
                label = row["network"] if gbit == 10 else None
                ax.plot(RANKS, y, style, color=f"C{number}", label=label)
            if column:
                ends.append(f"{row['network']} {y[-1]:.0f}")
        ax.set(xscale="log", yscale="log", xlabel="ranks", title=where)
        ax.set(xticks=RANKS, xticklabels=RANKS, yticks=RANKS, yticklabels=RANKS)
        ax.title.set_size(9)
        ax.minorticks_off()
    panels[0][0].set_ylabel("times as fast as one")
    drawn.legend(*panels[0][0].get_legend_handles_labels(), fontsize=8, frameon=False,
                 loc="outside lower center", ncols=3)  # fmt: skip
    alt = (
        f"Speed against ranks, computed for {TASKS} tasks, solid at 10 and dashed at 100 Gbit/s. "
        f"On {RANKS[-1]} GPUs at 100 Gbit/s: {', '.join(ends)} times as fast as one."
    )
    return image("machines-speedup.svg", drawn, alt, pictures)


def times_as_fast(row: dict[str, Any], ranks: int, gbit: float, speed: float) -> float:
    """By the two equations of the page, with `TASKS` tasks in all."""
    alone = TASKS * row["flops"] / speed
    sending = (ranks - 1) / ranks * 8 * row["parameters"] / (gbit * 1e9 / 8)
    return alone / (alone / ranks + sending)


# --------------------------------------------------------------------------------------- tables


def networks(sections: dict[str, Any], pictures: Path) -> str:
    """What was measured of each network, beside its message."""
    sent = {row["network"]: row for row in sections.get("messages", {"rows": []})["rows"]}
    head = [
        "network",
        "Gflop",
        "processor seconds",
        "Gflop/s",
        "peak MB",
        "sent, MB",
        "sending, ms",
    ]
    lines = []
    for row in sections["networks"]["rows"]:
        message = sent.get(row["network"])
        speed = row["flops_measured"] / row["processor_seconds"] / 1e9
        numbers = [row["flops_measured"] / 1e9, row["processor_seconds"], speed, row["peak_mb"]]
        told = (
            [f"{message['bytes'] / 1e6:.3g}", f"{1e3 * message['seconds']:.3g}"]
            if message
            else ["", ""]
        )
        lines.append([row["network"], *(f"{number:.3g}" for number in numbers), *told])
    return table(head, lines) + f"\n\nMeasured on {origin(sections['networks'])}."


def large(sections: dict[str, Any], pictures: Path) -> str:
    """What each way of working holds and takes."""
    rows: Rows = sections["large"]["rows"]
    head = ["network", "worked out", "peak MB", "processor seconds", "difference of the gradient"]
    lines = [
        [row["network"], row["way"], row["error"], "", ""]
        if "error" in row
        else [
            row["network"],
            row["way"],
            f"{row['peak_mb']:.4g}" if row["peak_mb"] is not None else "",
            f"{row['processor_seconds']:.3g}",
            f"{row['difference']:.0e}" if row["difference"] else "0",
        ]
        for row in rows
    ]
    return table(head, lines) + f"\n\nMeasured on {origin(sections['large'])}."


def ranks(record: dict[str, Any]) -> str:
    """Two ranks beside one process."""
    one, several = record["seconds"]["one process"], record["seconds"]["ranks"]
    return (
        f"Measured with {record['network']}, {record['tasks']} tasks, on {record['processor']}, "
        f"{record['cores']} cores: one process with {record['ranks']} threads takes "
        f"{1e3 * one:.0f} ms an iteration, and {record['ranks']} ranks with a thread each "
        f"{1e3 * several:.0f} ms, so that they are {one / several:.2f} times as fast "
        f"(`{record['command']}`)."
    )


def table(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join(results_page.table(head, lines))


WORDS: dict[str, Callable[[dict[str, Any], Path], str]] = {
    "growth": growth,
    "speedup": speedup,
    "networks": networks,
    "large": large,
}


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", fill_in, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
