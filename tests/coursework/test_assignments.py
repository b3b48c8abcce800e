"""Assignments: full marks for the reference, none for nothing, exact losses for mistakes."""

import ast
import re
from pathlib import Path

import coursework
import matplotlib.pyplot as plt
import pytest
from coursework import mark, source

from tests.coursework.grading import empty, expected, graded, with_mistake
from tests.coursework.mistake import Mistake
from tests.coursework.mistakes import MISTAKES

PAGE = coursework.ROOT / "book" / "coursework.md"
PATHS = sorted(coursework.ASSIGNMENTS.glob("*.ipynb"))
NOTEBOOKS = {path.stem: coursework.read(path) for path in PATHS}
AUTOMATIC, BY_HAND = 16, 4

each = pytest.mark.parametrize("name", NOTEBOOKS)
every_mistake = pytest.mark.parametrize(
    ("name", "mistake"),
    [
        pytest.param(name, mistake, id=f"{name}: {mistake.what}")
        for name, mistakes in MISTAKES.items()
        for mistake in mistakes
    ],
)


def test_there_are_six_with_three_mistakes_or_more() -> None:
    assert len(NOTEBOOKS) == 6
    assert MISTAKES.keys() == NOTEBOOKS.keys()
    assert min(len(mistakes) for mistakes in MISTAKES.values()) >= 3


@each
def test_the_reference_gets_full_marks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    result = graded(NOTEBOOKS[name], experiments=True)
    assert result.errors == {}
    assert sum(result.points.values()) == AUTOMATIC


@each
def test_the_empty_notebook_gets_nothing(name: str) -> None:
    result = graded(empty(NOTEBOOKS[name]))
    assert sum(result.points.values()) == 0
    given = [c["id"] for c in NOTEBOOKS[name]["cells"] if mark(c).get("locked")]
    failed = set(given) & result.errors.keys() - result.points.keys()
    assert not failed, "a cell that is given needs an answer"


@every_mistake
def test_a_mistake_loses_its_points_and_no_others(name: str, mistake: Mistake) -> None:
    result = graded(with_mistake(NOTEBOOKS[name], mistake))
    assert result.points == expected(NOTEBOOKS[name], mistake)
    for check in mistake.fails:
        assert len(result.errors[check]) > 40, f"{check} does not say what is wrong"


@each
def test_every_check_is_failed_by_some_mistake(name: str) -> None:
    caught = {check for mistake in MISTAKES[name] for check in mistake.fails}
    assert caught == coursework.points(NOTEBOOKS[name]).keys()


@each
def test_the_marks_are_nbgraders(name: str) -> None:
    kinds = {"grade", "solution", "locked", "task", "grade_id", "schema_version"}
    for cell in NOTEBOOKS[name]["cells"]:
        if not mark(cell):
            assert cell["cell_type"] == "markdown" or "experiment" in cell["metadata"]["tags"]
            continue
        assert mark(cell).keys() - {"points"} == kinds
        assert mark(cell)["grade_id"] == cell["id"]
        assert mark(cell)["grade"] == ("points" in mark(cell))
        assert mark(cell)["locked"] != mark(cell)["solution"]
        assert cell.get("outputs", []) == [], "assignments are stored without outputs"


@each
def test_students_see_neither_solutions_nor_hidden_checks(name: str) -> None:
    assignment, students = NOTEBOOKS[name], coursework.for_students(NOTEBOOKS[name])
    text = "\n".join(source(cell) for cell in students["cells"])
    assert "SOLUTION" not in text
    assert "HIDDEN TESTS" not in text
    for before, after in zip(assignment["cells"], students["cells"], strict=True):
        if mark(before).get("solution"):
            assert "YOUR CODE HERE" in source(after) or "YOUR ANSWER HERE" in source(after)
        if after["id"].startswith("hidden-"):
            assert "BEGIN HIDDEN TESTS" in source(before)
            assert len(source(after).splitlines()) == 1, "a hidden check shows more than its title"
        if after["cell_type"] == "code":
            ast.parse(source(after))


@each
def test_an_answer_is_short(name: str) -> None:
    """What the student writes is the heart of the method, not the plumbing."""
    for cell in NOTEBOOKS[name]["cells"]:
        for part in re.findall(r"BEGIN SOLUTION\n(.*?)### END", source(cell), flags=re.S):
            assert len(part.strip().splitlines()) <= 13, f"{cell['id']} asks for too much"


@each
def test_the_table_of_points_is_right(name: str) -> None:
    first = source(NOTEBOOKS[name]["cells"][0])
    rows = re.findall(r"^\| (\d)\. .*? \| (\d+) \| (.*?) \|$", first, flags=re.M)
    assert sum(int(points) for _, points, _ in rows) == AUTOMATIC + BY_HAND
    assert re.search(rf"\*\*sum\*\* \| \*\*{AUTOMATIC + BY_HAND}\*\*", first)
    assert re.search(r"About \*\*\d hours\*\*", first)
    number, sums = 0, dict[int, int]()
    for cell in NOTEBOOKS[name]["cells"]:
        if heading := re.match(r"## (\d)\. .*\((\d+) points\)", source(cell)):
            number = int(heading[1])
            sums[number] = 0
            assert rows[number - 1][1] == heading[2]
        sums[number] = sums.get(number, 0) + mark(cell).get("points", 0)
    assert [sums[int(number)] for number, _, _ in rows] == [int(points) for _, points, _ in rows]
    for number, points, how in rows[:-1]:
        assert sum(map(int, re.findall(r"\b(\d)\b", how))) == int(points), f"question {number}"


@every_mistake
def test_the_instructors_page_has_the_mistake(name: str, mistake: Mistake) -> None:
    lost = sum(coursework.points(NOTEBOOKS[name])[check] for check in mistake.fails)
    assert f"| {mistake.what} | {mistake.cell} | {lost} |" in PAGE.read_text(encoding="utf-8")


def test_an_unknown_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="no cell is called \\['nobody'\\]"):
        coursework.with_answers(NOTEBOOKS["1_maml_inner_loop"], {"nobody": ""})


def test_the_folder_of_the_course(tmp_path: Path) -> None:
    (tmp_path / "submitted").mkdir()
    (tmp_path / "submitted" / "work.txt").write_text("a student's")
    names = coursework.write_course(tmp_path)
    assert names == list(NOTEBOOKS)
    for name in names:
        written = coursework.read(tmp_path / "source" / name / f"{name}.ipynb")
        assert written == NOTEBOOKS[name]
    assert (tmp_path / "nbgrader_config.py").exists()
    assert (tmp_path / "submitted" / "work.txt").exists()
