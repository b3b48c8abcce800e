"""The reader of records: where it looks, what it looks up, and what it says where there is none."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from metanotes.notebook import (
    OverSeeds,
    Record,
    html_table,
    kept,
    record,
    record_data,
    record_names,
)


def row(name: str, seed: int | None, value: float, **more: Any) -> dict[str, Any]:
    fixed = {"ci95": 0.004 + value / 100, "unit": "accuracy", "tasks": 600, "transductive": True}
    return {"name": name, "value": value, "seed": seed, **fixed, **more}


WORDS = {"title": "A title", "command": "python -m runs x", "config": {}, "protocol": "So."}
ROWS = [
    row(name, seed, base + seed / 100, setting=setting)
    for name, base in (("MAML", 0.9), ("ANIL", 0.8))
    for setting in ("5-way", "20-way")
    for seed in ((0, 1, 2) if setting == "5-way" else (0,))
]


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A book with a record, with its notebooks as the working directory."""
    (tmp_path / "results" / "speed").mkdir(parents=True)
    (tmp_path / "notebooks" / "coursework").mkdir(parents=True)
    for name, content in (("x", {**WORDS, "rows": ROWS}), ("speed/y", {"ms": [1, 2]})):
        (tmp_path / "results" / f"{name}.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path / "notebooks")
    return tmp_path


@pytest.mark.parametrize("here", ["notebooks", "notebooks/coursework", "."])
def test_a_record_is_found_from_the_book(
    book: Path, monkeypatch: pytest.MonkeyPatch, here: str
) -> None:
    monkeypatch.chdir(book / here)
    assert record("x").title == "A title"
    assert record_data("speed/y") == {"ms": [1, 2]}
    assert record_names() == ["x"]
    assert record_names("speed/*") == ["speed/y"]


def test_elsewhere_the_error_says_where_it_looked_and_what_would_do(
    tmp_path: Path, book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = tmp_path / "a" / "b" / "c"
    away.mkdir(parents=True)
    monkeypatch.chdir(away)
    with pytest.raises(FileNotFoundError) as error:
        record("x")
    for word in ("'x'", str(away / "results"), "notebooks/", "folder=", "python -m runs x"):
        assert word in str(error.value)
    assert record("x", book / "results").rows == ROWS
    assert record_names("x") == []


def test_elsewhere_the_records_that_came_with_the_package_are_read(
    tmp_path: Path, book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(book / "notebooks")
    (book / "results" / "sine.json").write_text(json.dumps({**WORDS, "rows": ROWS}))
    assert record("sine").title == "A title"  # one that is near comes first
    away = tmp_path / "a" / "b" / "c"
    away.mkdir(parents=True)
    monkeypatch.chdir(away)
    assert record("sine").title != "A title"
    assert record_data("hypergradients/cost")["curves"]
    assert record_names("benchmarks/*")


def test_rows_are_looked_up_by_their_fields(book: Path) -> None:
    run = record("x")
    assert run.names == ["MAML", "ANIL"]
    assert run.settings == ["5-way", "20-way"]
    assert [r["seed"] for r in run.rows_of(name="ANIL", setting="5-way")] == [0, 1, 2]
    assert run.rows_of(name="Reptile") == []
    assert run.cell(name="MAML", setting="5-way") == "90.0 91.0 92.0 ± 1.3"
    assert run.cell(", ", name="MAML", setting="20-way") == "90.0 ± 1.3"
    assert run.cell(name="MAML", setting="5-way", transductive=False) == ""


def test_a_mean_over_seeds_has_students_interval(book: Path) -> None:
    score = record("x").over_seeds(name="MAML", setting="5-way")
    assert score.mean == pytest.approx(0.91)
    # t of two degrees of freedom is 4.303, and the standard deviation 0.01.
    assert score.ci95 == pytest.approx(4.3027 * 0.01 / math.sqrt(3), rel=1e-4)
    assert math.isnan(OverSeeds({0: 0.5}).ci95)
    assert math.isnan(OverSeeds({}).mean)


def test_a_difference_is_taken_seed_by_seed() -> None:
    difference = OverSeeds({0: 0.5, 1: 0.7, 5: 0.1}) - OverSeeds({1: 0.4, 0: 0.4, 7: 0.2})
    assert difference.values == pytest.approx({0: 0.1, 1: 0.3})


def test_two_rows_of_a_seed_are_no_mean_over_seeds(book: Path) -> None:
    with pytest.raises(ValueError, match="more than one row a seed"):
        record("x").over_seeds(name="MAML")


def test_trainings_and_curves_are_looked_up_likewise() -> None:
    runs = [{"what": "MAML", "seed": s} for s in (0, 1)] + [{"what": "ANIL", "seed": 0}]
    curves = [{"name": "SGD", "seed": None, "value": [2.0, 1.0]}]
    run = Record.of("x", {**WORDS, "rows": [], "runs": runs, "curves": curves})
    assert run.runs_of(what="MAML") == runs[:2]
    assert run.curves_of(name="SGD") == curves
    assert run.curves_of(name="Adam") == []


def test_a_table_of_settings_has_a_column_for_each(book: Path) -> None:
    head, lines = record("x").grid(transductive=True)
    assert head == ["learner", "5-way", "20-way"]
    assert lines[0] == ["MAML", "90.0, 91.0, 92.0 ± 1.3", "90.0 ± 1.3"]
    table = record("x").table(transductive=True)
    assert table._repr_html_().count("<tr>") == 3
    assert "<td>90.0&nbsp;±&nbsp;1.3</td>" in table


def test_a_cell_without_a_digest_is_marked_where_others_have_one() -> None:
    rows = [row("ANIL", 0, 0.8, setting="5-way"), row("ANIL", 0, 0.7, setting="20-way")]
    assert Record.of("x", {**WORDS, "rows": rows}).grid()[1] == [
        ["ANIL", "80.0 ± 1.2", "70.0 ± 1.1"]
    ]
    rows[1]["settings"] = "1abf5537ab9b"
    lines = Record.of("x", {**WORDS, "rows": rows}).grid()[1]
    assert lines == [["ANIL", "80.0 ± 1.2\N{NO-BREAK SPACE}°", "70.0 ± 1.1"]]


def test_a_cell_has_its_values_in_the_order_of_the_seeds() -> None:
    rows = [row("MAML", seed, value, setting="5-way") for seed, value in ((2, 0.9), (0, 0.5))]
    assert Record.of("x", {**WORDS, "rows": rows}).cell(name="MAML") == "50.0 90.0 ± 1.3"


def test_another_table_has_a_column_for_each_seed_and_none_that_says_nothing() -> None:
    rows = [row("MAML", seed, 0.9, transductive=None) for seed in (0, 1)]
    rows.append(row("SGD", None, 0.5, transductive=None, unit="loss", setting="wide"))
    head, lines = Record.of("x", {**WORDS, "rows": rows}).grid()
    assert head == ["method", "seed 0", "seed 1", "without a seed", "judged on"]
    assert lines[0][3] == ""
    assert lines[1] == ["wide: SGD", "", "", "0.500 ± 0.009", "600"]


def test_the_notes_of_the_seeds_stand_in_one_line_without_their_parentheses() -> None:
    notes = ("rate 0.1 (0.1: 9, 1: 8), inner rate 1", "rate 1 (0.1: 8, 1: 9), inner rate 1")
    rows = [row("MAML", seed, 0.9, unit="mse", note=notes[seed]) for seed in (0, 1)]
    rows += [row("SGD", seed, 0.9, unit="mse", note="rate 1") for seed in (0, 1)]
    head, lines = Record.of("x", {**WORDS, "rows": rows}).grid()
    assert head[-1] == "note"
    texts = ["rate 0.1, inner rate 1; rate 1, inner rate 1", "rate 1"]
    assert [line[-1] for line in lines] == texts


def test_what_rows_were_made_on_is_told_with_older_and_newer_ones() -> None:
    origin = {"command": "python -m runs x", "commit": "0123456789abcdef", "dirty": True}
    origin |= {"processor": "A chip", "cores": 4, "threads": 2, "torch": "2.13", "python": "3.11"}
    content = {**WORDS, "rows": [], "machine": "an old one", "origins": {"ab": origin}}
    old, new = Record.of("x", content).machines
    assert old == "an old one"
    for word in ("A chip", "2 of 4 cores", "torch 2.13", "0123456789ab, changed", "`python -m"):
        assert word in new


def test_html_is_escaped_and_lines_fit_their_head() -> None:
    assert "<td>a &lt; b</td>" in html_table(["x"], [["a < b"]])
    with pytest.raises(ValueError, match="1 texts for 2 columns"):
        html_table(["x", "y"], [["a"]])


def test_what_was_worked_out_once_is_kept_and_read(book: Path) -> None:
    calls = []

    def make() -> tuple[float, None]:
        calls.append(1)
        return 0.1, None

    for _ in range(2):
        assert kept("speed/further_seeds", "seed 1", make) == [0.1, None]
    assert kept("speed/further_seeds", "seed 2", lambda: 3) == 3
    assert len(calls) == 1
    assert record_data("speed/further_seeds") == {"seed 1": [0.1, None], "seed 2": 3}
    assert not list(book.rglob("*.tmp"))


def test_what_json_does_not_know_is_not_kept(book: Path) -> None:
    kept("speed/further_seeds", "seed 1", lambda: 1)
    for bad in (math.nan, object()):
        with pytest.raises((ValueError, TypeError)):
            kept("speed/further_seeds", "seed 2", lambda bad=bad: bad)
    assert record_data("speed/further_seeds") == {"seed 1": 1}
