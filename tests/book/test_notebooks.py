"""The chapters as they are stored: outputs present and fresh, pictures described, no machine named.

What the cells do is tested by nbval (`make notebook-tests`), which runs every one of them.
"""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chapters
import pytest

from metanotes.notebook import color_of

PATHS = sorted(chapters.FOLDER.glob("*.ipynb"))
TEXT = ("text/plain", "text/html", "text/markdown", "text/latex")
PICTURES = ("image/svg+xml", "image/png", "image/jpeg")
WIDGET = "application/vnd.jupyter.widget-view+json"
# An absolute path of two folders or more, a library's folder, or a drive.
MACHINE = re.compile(r"(?<![\w.:/<])/(?:[\w.-]+/){2,}|site-packages|\b[A-Z]:\\\\?Users")
ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,}")

# A measured number: a share or points, one with decimals and a unit, or one with its interval.
UNIT = r"(?:degrees|times|BLEU|nats?|bits?|ms|s|seconds|minutes|hours)\b|°"
MEASURED = re.compile(
    rf"(?<![\w.,–-])(?!95 %)(\d+(?:\.\d+)?)\s*(?:%|points?\b|±)|(?<![\w.])(\d+\.\d+)\s*(?:{UNIT})"
)
GIVEN = {  # a setting, or what the formula or the table beside it gives
    "02_tasks": {"99"},
    "16_hyperparameters": {"45"},
    "18_two_domains": {"3.9"},
    "19_adversarial_moment_matching": {"35", "50"},
    "21_beyond_adaptation": {"30"},
    "23_memory": {"45.7"},
}

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


def test_a_chapter_whose_record_has_changed_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = chapters.FOLDER / "03_maml.ipynb"
    newer = json.loads((chapters.RECORDS / "sine.json").read_text(encoding="utf-8"))
    newer["protocol"] = "in other words"
    monkeypatch.setattr(chapters, "RECORDS", tmp_path)
    (tmp_path / "sine.json").write_text(json.dumps(newer), encoding="utf-8")
    assert chapters.problems(path) == []
    newer["rows"][0]["value"] += 0.001
    (tmp_path / "sine.json").write_text(json.dumps(newer), encoding="utf-8")
    assert chapters.problems(path) == ["results/sine.json has changed since its outputs were made"]


def test_a_chapter_whose_measurement_has_changed_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = "benchmarks/amd-epyc-2-threads"
    monkeypatch.setattr(chapters, "RECORDS", tmp_path)
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).with_suffix(".json").write_text("{}", encoding="utf-8")
    for stem in ("12_learned_optimizers", "appendix_fast_inner_loop"):  # by its name, by a pattern
        found = chapters.problems(chapters.FOLDER / f"{stem}.ipynb")
        assert found == [f"results/{name}.json has changed since its outputs were made"]


def test_what_other_cells_have_kept_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (file := tmp_path / "reptile/waves.json").parent.mkdir()
    file.write_text(json.dumps({chapters.MADE_BY: "of others"}), encoding="utf-8")
    monkeypatch.setattr(chapters, "RECORDS", tmp_path)
    found = chapters.problems(chapters.FOLDER / "05_reptile.ipynb")
    assert "other cells filled results/reptile/waves.json: remove it, run the chapter" in found


def test_what_is_kept_depends_on_the_cells_whose_names_it_uses() -> None:
    def digest(*sources: str) -> str:
        cells = [{"cell_type": "code", "source": source} for source in sources]
        return chapters.kept_digests({"cells": cells})["waves"]

    rate, work, keep = "rate = 0.1", "def work():\n    return rate", 'x = kept("waves", "a", work)'
    made = digest(rate, work, keep)
    assert digest("unused = 1", rate, work, keep, "rate = 2") == made
    assert digest("rate = 2", work, keep) != made
    assert digest(rate, work + " / 2", keep) != made
    assert digest(rate, work, keep + " / 2") != made


@each
def test_some_cell_shows_something(path: Path) -> None:
    assert any(cell["outputs"] for _, cell in code_cells(path))


def unfounded(notebook: dict[str, Any]) -> list[str]:
    """Measured numbers of the prose that no output shows, in paragraphs that cite no source."""
    cells = notebook["cells"]
    shown = "\n".join(t for cell in cells for o in cell.get("outputs", []) for t in texts(o))
    numbers = {
        m[1] or m[2]
        for prose in cells
        if prose["cell_type"] == "markdown"
        for paragraph in re.split(r"\n\s*\n(?!\s*\|)", "".join(prose["source"]))
        if "{cite" not in paragraph
        for m in MEASURED.finditer(paragraph)
    }
    return sorted(n for n in numbers if not re.search(rf"(?<![\d.]){re.escape(n)}0*(?!\d)", shown))


@each
def test_measured_numbers_in_prose_come_from_an_output_or_a_cited_source(path: Path) -> None:
    found = unfounded(json.loads(path.read_text(encoding="utf-8")))
    assert set(found) <= GIVEN.get(path.stem, set())


def test_a_number_that_no_output_shows_is_found() -> None:
    prose = {
        "cell_type": "markdown",
        "source": ["MAML reaches 96.1 %, and 2.5 ± 0.1 later: 3.2 points, 40 %, in 6.4 s."],
    }
    code = {"outputs": [{"output_type": "stream", "text": ["MAML 96.1, 12.5, 6.40"]}]}
    assert unfounded({"cells": [prose, {"cell_type": "code"} | code]}) == ["2.5", "3.2", "40"]


COLOR = re.compile(r"#[0-9a-fA-F]{6}|C\d|tab:\w+|BLUE|ORANGE|RED|GREEN|PINK|PURPLE|SKY|GREY")


def is_color(node: ast.AST) -> bool:
    """Whether a piece of code is a colour, or a group that holds one."""
    if isinstance(node, ast.Tuple | ast.List):
        return any(map(is_color, node.elts))
    word = getattr(node, "id", getattr(node, "value", None))
    return isinstance(word, str) and COLOR.fullmatch(word) is not None


def is_method(node: ast.AST | None) -> bool:
    """Whether a piece of code is the name of something that has a colour of its own."""
    if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
        return False
    try:
        return bool(color_of(node.value))
    except ValueError:
        return False


def colors_by_hand(code: str) -> Iterator[str]:
    """What gives a colour to a method by hand: in a dictionary, in a group or in a call."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            yield from (ast.unparse(key) for key, v in pairs if is_method(key) and is_color(v))
        elif isinstance(node, ast.Tuple | ast.List) and is_color(node):
            yield from (ast.unparse(node) for part in node.elts if is_method(part))
        elif isinstance(node, ast.Call):
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            if is_method(given.get("label")) and is_color(given.get("color", node)):
                yield ast.unparse(node)


@each
def test_a_method_has_the_color_that_it_has_in_the_whole_book(path: Path) -> None:
    for where, cell in code_cells(path):
        assert list(colors_by_hand("".join(cell["source"]))) == [], f"{where}: use color_of"


def test_a_color_by_hand_is_found() -> None:
    for code in (
        'LOOKS = {"MAML, 5 steps": (BLUE, "-"), "the wave": GREY}',
        'lines = (("random start", values, GREY, ":"), ("a wave", others, RED, "-"))',
        'ax.plot(x, y, "o", color="#0072B2", label="Reptile")',
    ):
        assert len(list(colors_by_hand(code))) == 1, code
    assert not list(colors_by_hand('ax.plot(x, color=color_of("Reptile"), label="Reptile")'))


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
def test_a_link_by_number_goes_to_that_chapter(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for number, prefix in re.findall(r"{doc}`(\d+) <(\d\d)_\w+>`", text):
        assert int(number) == int(prefix), f"{number} leads to chapter {prefix}"


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
