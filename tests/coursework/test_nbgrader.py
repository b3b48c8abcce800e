"""nbgrader itself: its students' version is ours, and its points are those of `grading.py`.

It needs the grader's environment: `make course-tests`, some five minutes.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import coursework
import pytest
from coursework import ROOT, Notebook, mark, source

from tests.coursework.grading import empty, expected, with_mistake
from tests.coursework.mistakes import MISTAKES

pytestmark = pytest.mark.course

BIN = ROOT / ".venv-course" / "bin"
NAMES = sorted(MISTAKES)
ENVIRONMENT = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}  # it calls alembic


class Course(NamedTuple):
    """A course with one assignment: its name, the folder, the source, and what students get."""

    name: str
    folder: Path
    assignment: Notebook
    released: Notebook


# Run by the grader's Python in the course folder: points, and what is left to a person.
READ = """
import json, sys
from nbgrader.api import Gradebook
with Gradebook("sqlite:///gradebook.db") as book:
    print(json.dumps({
        submission.student.id: {
            grade.name: [grade.auto_score, grade.needs_manual_grade]
            for notebook in submission.notebooks for grade in notebook.grades
        }
        for submission in book.assignment_submissions(sys.argv[1])
    }))
"""


def called(folder: Path, *command: str) -> str:
    """What a command of the grader prints."""
    done = subprocess.run(
        [BIN / command[0], *command[1:]],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=NAMES)
def course(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Course:
    """A course with one of the assignments released."""
    assert (BIN / "nbgrader").exists(), "nbgrader is not installed: run make course-tests"
    name, folder = request.param, tmp_path_factory.mktemp("course")
    coursework.write_course(folder)
    called(folder, "nbgrader", "generate_assignment", name, "--create")
    return Course(
        name,
        folder,
        coursework.read(coursework.ASSIGNMENTS / f"{name}.ipynb"),
        coursework.read(folder / "release" / name / f"{name}.ipynb"),
    )


def test_its_version_for_students_is_ours(course: Course) -> None:
    ours, theirs = coursework.for_students(course.assignment), course.released
    assert [source(c) for c in theirs["cells"]] == [source(c) for c in ours["cells"]]
    assert [mark(c).get("points") for c in theirs["cells"]] == [
        mark(c).get("points") for c in ours["cells"]
    ]


def without_experiments(notebook: dict[str, Any]) -> dict[str, Any]:
    kept = [c for c in notebook["cells"] if "experiment" not in c["metadata"].get("tags", [])]
    return {**notebook, "cells": kept}


def test_its_points_are_ours(course: Course) -> None:
    name, folder, assignment, released = course
    mistakes = MISTAKES[name][:: len(MISTAKES[name]) // 3][:3]
    answers = {
        "reference": coursework.answers(assignment),
        "empty": coursework.answers(empty(assignment)),
    }
    for number, mistake in enumerate(mistakes):
        wrong = coursework.answers(with_mistake(assignment, mistake))
        answers[f"mistake-{number}"] = wrong
    for student, given in answers.items():
        handed_in = coursework.with_answers(released, given)
        if student != "reference":
            handed_in = without_experiments(handed_in)
        coursework.write(folder / "submitted" / student / name / f"{name}.ipynb", handed_in)
    called(folder, "nbgrader", "autograde", name, "--create")

    grades = json.loads(called(folder, "python", "-c", READ, name))
    points = coursework.points(assignment)
    rows = {student: {check: row[check][0] for check in points} for student, row in grades.items()}
    assert rows.pop("reference") == points
    assert rows.pop("empty") == dict.fromkeys(points, 0)
    assert rows == {f"mistake-{n}": expected(assignment, m) for n, m in enumerate(mistakes)}
    assert grades["reference"]["words"][1], "the answer in words waits for a person"
    assert not grades["empty"]["words"][1], "no answer in words gets no points"

    judged = folder / "autograded" / "reference" / name / f"{name}.ipynb"
    for cell in coursework.read(judged)["cells"]:
        for output in cell.get("outputs", []):
            assert output["output_type"] != "error", source(cell)
            assert output.get("name") != "stderr", output["text"]
