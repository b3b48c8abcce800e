"""The chapters as they are stored: outputs present and fresh, pictures described, no machine named.

What the cells do is tested by nbval (`make notebook-tests`), which runs every one of them.
"""

import json
import re
from pathlib import Path
from typing import Any

import chapters
import pytest

PATHS = sorted(chapters.FOLDER.glob("*.ipynb"))
TEXT = ("text/plain", "text/html", "text/markdown", "text/latex")
PICTURES = ("image/svg+xml", "image/png", "image/jpeg")
WIDGET = "application/vnd.jupyter.widget-view+json"
# An absolute path of two folders or more, a library's folder, or a drive.
MACHINE = re.compile(r"(?<![\w.:/<])/(?:[\w.-]+/){2,}|site-packages|\b[A-Z]:\\\\?Users")
ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,}")

# A measured number: a percentage with decimals, or one with its interval.
MEASURED = re.compile(
    r"(?<![\w.])(\d+\.\d+)(?:\s*±\s*\d+(?:\.\d+)?)?\s*%|(?<![\w.])(\d+(?:\.\d+)?)\s*±"
)
DERIVED = {"23_memory": {"45.7"}}  # numbers that the formula beside them gives

each = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def code_cells(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The code cells that have a source, each with words that say which it is."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [
        (f"cell {number}: {''.join(cell['source']).strip().splitlines()[0]}", cell)
        for number, cell in enumerate(notebook["cells"])
        if cell["cell_type"] == "code" and "".join(cell["source"]).strip()
    ]


def texts(output: dict[str, Any]) -> list[str]:
    """The text that an output shows; none for a picture or a widget."""
    if output["output_type"] == "stream":
        return ["".join(output["text"])]
    data = output.get("data", {})
    if WIDGET in data or any(kind in data for kind in PICTURES):
        return []
    return ["".join(data[kind]) for kind in TEXT if kind in data]


def test_there_are_chapters() -> None:
    assert PATHS


@each
def test_stored_outputs_are_those_of_the_code(path: Path) -> None:
    assert chapters.problems(path) == [], "run: make notebooks"


@each
def test_some_cell_shows_something(path: Path) -> None:
    assert any(cell["outputs"] for _, cell in code_cells(path))


def unfounded(notebook: dict[str, Any]) -> list[str]:
    """Measured numbers of the prose that no output shows, in cells that cite no source."""
    cells = notebook["cells"]
    shown = "\n".join(t for cell in cells for o in cell.get("outputs", []) for t in texts(o))
    numbers = {
        m[1] or m[2]
        for prose in cells
        if prose["cell_type"] == "markdown"
        for text in ["".join(prose["source"])]
        if "{cite" not in text
        for m in MEASURED.finditer(text)
    }
    return sorted(n for n in numbers if not re.search(rf"(?<![\d.]){re.escape(n)}(?!\d)", shown))


@each
def test_measured_numbers_in_prose_come_from_an_output_or_a_cited_source(path: Path) -> None:
    found = unfounded(json.loads(path.read_text(encoding="utf-8")))
    assert set(found) <= DERIVED.get(path.stem, set())


def test_a_number_that_no_output_shows_is_found() -> None:
    prose = {"cell_type": "markdown", "source": ["MAML reaches 96.1 %, and 2.5 ± 0.1 later."]}
    code = {"outputs": [{"output_type": "stream", "text": ["MAML 96.1, 12.5"]}]}
    assert unfounded({"cells": [prose, {"cell_type": "code"} | code]}) == ["2.5"]


@each
def test_text_outputs_are_compared_or_said_not_to_be(path: Path) -> None:
    for where, cell in code_cells(path):
        tags = set(cell["metadata"].get("tags", []))
        choice = tags & {"nbval-check-output", "nbval-ignore-output"}
        assert len(choice) < 2, f"{where} has both tags"
        if any(texts(output) for output in cell["outputs"]):
            assert choice, f"{where} shows text: tag it nbval-check-output or nbval-ignore-output"
        assert "nbval-skip" not in tags, f"{where} is never run"
        assert "raises-exception" not in tags, f"{where} may fail: assert the error instead"


@each
def test_pictures_have_alternative_text(path: Path) -> None:
    for where, cell in code_cells(path):
        pictures = [o for o in cell["outputs"] if any(k in o.get("data", {}) for k in PICTURES)]
        alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
        if pictures:
            assert len(alt) >= 10, f"{where} shows a picture and has no alternative text"
            assert len(pictures) == 1, f"{where} shows {len(pictures)} pictures with one text"
        for output in cell["outputs"]:
            for tag in re.findall(
                r"<img\b[^>]*>", "".join(output.get("data", {}).get(TEXT[1], ""))
            ):
                assert re.search(r'\balt="[^"]{10,}"', tag), f"{where} has an <img> without alt"


@each
def test_widgets_carry_described_pictures_and_no_callback(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    store = notebook["metadata"].get("widgets", {})
    models = store.get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
    shown = [
        output["data"][WIDGET]["model_id"]
        for _, cell in code_cells(path)
        for output in cell["outputs"]
        if WIDGET in output.get("data", {})
    ]
    for model in shown:
        assert model in models, "a widget is shown whose state is not stored"
    kinds = {model["model_name"] for model in models.values()}
    assert not kinds & {"OutputModel", "ImageModel"}, "these carry no alternative text"
    assert not kinds & {"FloatProgressModel", "IntProgressModel"}, "a progress bar is stored"
    if shown:
        assert "LinkModel" in kinds, "a widget is linked to nothing, so it does nothing in the page"
    for model in models.values():
        for tag in re.findall(r"<img\b[^>]*>", str(model["state"].get("value", ""))):
            assert re.search(r'\balt="[^"]{10,}"', tag), "a panel has no alternative text"


@each
def test_there_is_something_to_touch(path: Path) -> None:
    assert any(WIDGET in o.get("data", {}) for _, cell in code_cells(path) for o in cell["outputs"])


@each
def test_outputs_name_no_machine(path: Path) -> None:
    for where, cell in code_cells(path):
        for output in cell["outputs"]:
            for text in texts(output):
                for pattern in (MACHINE, ADDRESS):
                    found = pattern.search(text)
                    assert not found, f"{where} prints {found[0]!r}" if found else ""


@each
def test_labels_of_exercises_have_solutions(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    text = "\n".join(
        "".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "markdown"
    )
    exercises = re.findall(
        r"\{exercise(?:-start)?\}[^\n]*\n(?::[a-z]+:[^\n]*\n)*?:label: (\S+)", text
    )
    solved = re.findall(r"\{solution(?:-start)?\} (\S+)", text)
    assert sorted(exercises) == sorted(solved)
