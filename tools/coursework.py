"""Notebooks for a course: chapters without solutions, and assignments for a grader.

    python tools/coursework.py chapters course/chapters   # every chapter, with cells to answer in
    python tools/coursework.py course course              # a folder that nbgrader works in
    python tools/coursework.py kernel .venv-course        # this Python, as the kernel of the grader

The assignments, `notebooks/coursework/`, are in the format of nbgrader: one notebook holds the
question, the answer and the checks, and the marks in the cells' metadata say which is which. What
students get is made from it by two of nbgrader's rules, which are small enough to stand here too,
so that the tests need no grader: what lies between BEGIN SOLUTION and END SOLUTION becomes a stub,
and what lies between BEGIN HIDDEN TESTS and END HIDDEN TESTS goes.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import chapters

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS, ASSIGNMENTS = ROOT / "notebooks", ROOT / "notebooks" / "coursework"
CONFIG = ROOT / "tools" / "nbgrader_config.py"

Cell = dict[str, Any]
Notebook = dict[str, Any]

STUBS = {
    "code": ["# YOUR CODE HERE", "raise NotImplementedError()"],
    "markdown": ["YOUR ANSWER HERE"],
}

# ------------------------------------------------------------------------ notebooks


def read(path: Path) -> Notebook:
    return json.loads(path.read_text(encoding="utf-8"))


def write(path: Path, notebook: Notebook) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    path.write_text(text, encoding="utf-8")


def source(cell: Cell) -> str:
    return "".join(cell["source"])


def with_source(cell: Cell, text: str) -> Cell:
    return {**copy.deepcopy(cell), "source": text.splitlines(keepends=True)}


def new_cell(kind: str, name: str, text: str) -> Cell:
    cell = {"cell_type": kind, "id": name, "metadata": {}, "source": text.splitlines(keepends=True)}
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def without_outputs(notebook: Notebook, cells: Iterable[Cell]) -> Notebook:
    """These cells as a notebook that has not been run."""
    clean = []
    for cell in cells:
        cell = copy.deepcopy(cell)
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
        clean.append(cell)
    kept = {k: v for k, v in notebook["metadata"].items() if k in ("kernelspec", "language_info")}
    return {**notebook, "cells": clean, "metadata": kept}


# ------------------------------------------------------------------------ assignments


def mark(cell: Cell) -> dict[str, Any]:
    """What nbgrader knows of a cell; empty for one that is free."""
    return cell["metadata"].get("nbgrader", {})


def regions(text: str, name: str) -> Iterator[tuple[str, bool]]:
    """The lines of a cell, each with whether it lies in a region; its two marks are left out."""
    inside = False
    for line in text.splitlines():
        if f"BEGIN {name}" in line:
            inside = True
            yield line, True  # the first line of a region stands for it
        elif f"END {name}" in line:
            inside = False
        elif not inside:
            yield line, False


def without_solution(cell: Cell) -> Cell:
    """An answer's cell with a stub in place of each solution, or of the whole."""
    text, stub = source(cell), STUBS[cell["cell_type"]]
    if "BEGIN SOLUTION" not in text:
        return with_source(cell, "\n".join(stub))
    lines = []
    for line, first in regions(text, "SOLUTION"):
        indent = line[: len(line) - len(line.lstrip())]
        lines += [indent + part for part in stub] if first else [line]
    return with_source(cell, "\n".join(lines))


def without_hidden_tests(cell: Cell) -> Cell:
    lines = [line for line, first in regions(source(cell), "HIDDEN TESTS") if not first]
    return with_source(cell, "\n".join(lines))


def for_students(assignment: Notebook) -> Notebook:
    """What students get: no solutions, no hidden tests."""
    cells = []
    for cell in assignment["cells"]:
        if mark(cell).get("solution"):
            cell = without_solution(cell)
        elif mark(cell).get("grade"):
            cell = without_hidden_tests(cell)
        cells.append(cell)
    return without_outputs(assignment, cells)


def answers(notebook: Notebook) -> dict[str, str]:
    """The sources of the cells that a student writes, by their names."""
    return {
        mark(cell)["grade_id"]: source(cell)
        for cell in notebook["cells"]
        if mark(cell).get("solution")
    }


def with_answers(assignment: Notebook, given: dict[str, str]) -> Notebook:
    """A hand-in as the grader sees it: the student's answers, and all checks of the assignment."""
    names = answers(assignment).keys()
    if unknown := given.keys() - names:
        raise ValueError(f"no cell is called {sorted(unknown)}; the answers are {sorted(names)}")
    cells = [
        with_source(cell, given[mark(cell)["grade_id"]])
        if mark(cell).get("grade_id") in given
        else cell
        for cell in assignment["cells"]
    ]
    return without_outputs(assignment, cells)


def points(notebook: Notebook) -> dict[str, int]:
    """The points of each check that the computer judges, by its name."""
    return {
        mark(cell)["grade_id"]: mark(cell)["points"]
        for cell in notebook["cells"]
        if mark(cell).get("grade") and not mark(cell)["solution"]
    }


# ------------------------------------------------------------------------ chapters

LABEL = re.compile(r":label: (\S+)\n(?::[a-z]+:.*\n)*\s*(?:\*\*(.+?)\*\*)?")
ANSWER = "**Your answer** to *{title}*:"


def titles(notebook: Notebook) -> dict[str, str]:
    """The bold first words of each exercise, by its label."""
    text = "\n".join(source(c) for c in notebook["cells"] if c["cell_type"] == "markdown")
    found = {}
    for exercise in re.findall(r"^:::\{exercise\}.*\n((?:.*\n)+?)^:::$", text, flags=re.M):
        if label := LABEL.match(exercise):
            found[label[1]] = (label[2] or label[1]).rstrip(".")
    return found


def without_solutions(chapter: Notebook) -> Notebook:
    """A chapter in which each solution has given way to cells to answer in.

    Raises:
        ValueError: a solution that does not end.
    """
    names = titles(chapter)
    cells: list[Cell] = []
    label, in_code = None, False  # of the solution in which we are

    def add(cell: Cell, lines: list[str]) -> None:
        if text := "\n".join(lines).strip("\n"):
            number = sum(c["id"].startswith(cell["id"]) for c in cells)
            name = f"{cell['id']}-{number}" if number else cell["id"]
            cells.append(with_source(cell, text) | {"id": name})

    def answer() -> None:
        text = ANSWER.format(title=names.get(label or "", label))
        cells.append(new_cell("markdown", f"answer-{label}"[:64], text))
        if in_code:
            cells.append(new_cell("code", f"code-{label}"[:64], "# Your code"))

    for cell in chapter["cells"]:
        if cell["cell_type"] == "code":
            if label is None:
                cells.append(cell)
            in_code = in_code or label is not None
            continue
        kept: list[str] = []
        lines = iter(source(cell).splitlines())
        for line in lines:
            opened = re.match(r":::\{solution(-start)?\} (\S+)", line)
            if opened:
                add(cell, kept)
                kept, label, in_code = [], opened[2], False
                for line in lines:  # the options, or the whole of a solution in one directive
                    if line == ":::":
                        break
                if not opened[1]:
                    answer()
                    label = None
            elif line.startswith(":::{solution-end}"):
                next(lines, None)
                answer()
                label = None
            elif label is None:
                kept.append(line)
        add(cell, kept)
    if label is not None:
        raise ValueError(f"the solution of {label} has no end: add :::{{solution-end}}")
    return without_outputs(chapter, cells)


# ------------------------------------------------------------------------ folders


def write_chapters(folder: Path) -> list[Path]:
    """Every chapter for students."""
    paths = []
    for path in sorted(CHAPTERS.glob("*.ipynb")):
        paths.append(folder / path.name)
        write(paths[-1], without_solutions(read(path)))
    return paths


def write_course(folder: Path) -> list[str]:
    """nbgrader's folder: its settings, and source/NAME/NAME.ipynb. Nothing else is touched."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(CONFIG, folder / CONFIG.name)
    names = []
    for path in sorted(ASSIGNMENTS.glob("*.ipynb")):
        names.append(path.stem)
        write(folder / "source" / path.stem / path.name, read(path))
    return names


def write_kernel(environment: Path) -> None:
    """Tell the grader's environment that the kernel "metanotes" is the Python that runs this."""
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    about = {"argv": command, "display_name": "metanotes", "language": "python"}
    folder = environment / "share" / "jupyter" / "kernels" / "metanotes"
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(about | {"env": chapters.ENVIRONMENT}, indent=1) + "\n"
    (folder / "kernel.json").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("what", choices=("chapters", "course", "kernel"))
    parser.add_argument("folder", type=Path)
    asked = parser.parse_args()
    if asked.what == "chapters":
        print(f"{len(write_chapters(asked.folder))} chapters without solutions: {asked.folder}")
    elif asked.what == "course":
        print(f"{len(write_course(asked.folder))} assignments: {asked.folder / 'source'}")
    else:
        write_kernel(asked.folder)


if __name__ == "__main__":
    main()
