"""The chapters without solutions: nothing of a solution is left, and nothing needs one."""

import ast
import builtins
import re
from pathlib import Path
from typing import Any

import coursework
import pytest
from coursework import source

PATHS = sorted(coursework.CHAPTERS.glob("*.ipynb"))
each = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def cell(kind: str, text: str) -> dict[str, Any]:
    return coursework.new_cell(kind, f"{kind}-{len(text)}", text)


def small(*cells: dict[str, Any]) -> dict[str, Any]:
    return {"cells": list(cells), "metadata": {"kernelspec": {"name": "python3"}, "metanotes": {}}}


EXERCISE = ":::{exercise}\n:label: ex-one\n**The first.** Do it.\n:::\n"
START, END = ":::{solution-start} ex-one\n:class: dropdown\n:::\n", ":::{solution-end}\n:::\n"


def test_a_solution_with_code_gives_way_to_two_cells() -> None:
    chapter = small(
        cell("markdown", f"Before.\n\n{EXERCISE}\n{START}\nSecret words."),
        cell("code", "secret = 1"),
        cell("markdown", f"More secret words.\n{END}\nAfter."),
        cell("code", "kept = 2"),
    )
    result = coursework.without_solutions(chapter)
    texts = [source(c) for c in result["cells"]]
    assert texts == [
        f"Before.\n\n{EXERCISE}".strip(),
        "**Your answer** to *The first*:",
        "# Your code",
        "After.",
        "kept = 2",
    ]
    assert result["metadata"] == {"kernelspec": {"name": "python3"}}


def test_a_solution_in_words_gives_way_to_one_cell() -> None:
    whole = ":::{solution} ex-one\n:class: dropdown\n\nSecret.\n:::\n"
    for text in (f"{EXERCISE}\n{whole}\nAfter.", f"{EXERCISE}\n{START}\nSecret.\n{END}\nAfter."):
        texts = [
            source(c) for c in coursework.without_solutions(small(cell("markdown", text)))["cells"]
        ]
        assert texts == [EXERCISE.strip(), "**Your answer** to *The first*:", "After."]


def test_a_solution_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="the solution of ex-one has no end"):
        coursework.without_solutions(small(cell("markdown", f"{START}\nSecret.")))


@each
def test_each_exercise_has_a_place_to_answer(path: Path) -> None:
    chapter = coursework.read(path)
    names, result = coursework.titles(chapter), coursework.without_solutions(chapter)
    texts = [source(c) for c in result["cells"]]
    everything = "\n".join(texts)
    exercises = sum(source(c).count(":::{exercise}") for c in chapter["cells"])
    assert len(names) == exercises == everything.count(":::{exercise}") > 0
    assert not re.search(r"\{solution", everything)
    for title in names.values():
        assert sum(coursework.ANSWER.format(title=title) == text for text in texts) == 1
    ids = [c["id"] for c in result["cells"]]
    assert len(ids) == len(set(ids))
    assert all(c.get("outputs", []) == [] for c in result["cells"])


@each
def test_what_is_left_needs_no_solution(path: Path) -> None:
    """A name that only solutions define is used by no cell that is kept."""
    chapter = coursework.read(path)
    kept = {source(c) for c in coursework.without_solutions(chapter)["cells"]}
    code = [source(c) for c in chapter["cells"] if c["cell_type"] == "code"]
    bound = bound_names("\n".join(text for text in code if text in kept))
    secret = bound_names("\n".join(text for text in code if text not in kept)) - bound
    for text in code:
        if text in kept:
            used = {n.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name)}
            assert not used & secret - set(dir(builtins)), f"a cell that stays: {text[:60]!r}"


def bound_names(text: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).split(".")[0])
    return names


def test_all_chapters_are_written(tmp_path: Path) -> None:
    paths = coursework.write_chapters(tmp_path)
    assert [path.name for path in paths] == [path.name for path in PATHS]
    assert all(coursework.read(path)["cells"] for path in paths)
