"""A grader of one page: the code of a notebook in this process, and the points of its checks.

nbgrader does the same in a kernel; `test_nbgrader.py` compares the two.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import coursework
from coursework import Notebook

from tests.coursework.mistake import Mistake


class Graded(NamedTuple):
    """What a hand-in gets.

    Args:
        points: of each check, by its name.
        errors: what each cell that failed says, by the name of the cell.
    """

    points: dict[str, int]
    errors: dict[str, str]


def graded(notebook: Notebook, experiments: bool = False) -> Graded:
    """Run a notebook's code; its experiments, which no check needs, only if asked for."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    full, points, errors = coursework.points(notebook), {}, {}
    for cell in notebook["cells"]:
        skip = not experiments and "experiment" in cell["metadata"].get("tags", [])
        if cell["cell_type"] != "code" or skip:
            continue
        name = cell["id"]
        try:
            exec(compile(coursework.source(cell), f"<{name}>", "exec"), namespace)
        except Exception as error:
            errors[name] = f"{type(error).__name__}: {error}"
        if name in full:
            points[name] = 0 if name in errors else full[name]
    return Graded(points, errors)


def with_mistake(assignment: Notebook, mistake: Mistake) -> Notebook:
    """The reference with one wrong answer in it."""
    answer = coursework.answers(assignment)[mistake.cell]
    if answer.count(mistake.right) != 1:
        raise ValueError(
            f"{mistake.what!r}: {mistake.right!r} stands {answer.count(mistake.right)} times in "
            f"the answer {mistake.cell!r}, not once"
        )
    wrong = answer.replace(mistake.right, mistake.wrong)
    return coursework.with_answers(assignment, {mistake.cell: wrong})


def empty(assignment: Notebook) -> Notebook:
    """What a student hands in who has written nothing."""
    students = coursework.for_students(assignment)
    return coursework.with_answers(assignment, coursework.answers(students))


def expected(assignment: Notebook, mistake: Mistake) -> dict[str, int]:
    """The points of a hand-in with this mistake."""
    return {
        name: 0 if name in mistake.fails else value
        for name, value in coursework.points(assignment).items()
    }
