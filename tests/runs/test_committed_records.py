"""The records in `results/`: all of one shape, and each of a run that would make it again."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import results_page

from metanotes import notebook
from runs import record, translation_arms
from runs.__main__ import RUNS, parser

NAMES = notebook.record_names(folder=record.RESULTS)
TOP = {"title", "command", "config", "protocol", "curve_label", "seeds", "published"}
TOP |= {"origins", "rows", "runs", "curves"}
ROW = {"name", "value", "ci95", "unit", "tasks", "transductive", "seed"}
ROW_MAY = {"setting", "steps", "note", "settings", "origin"}

# Records with rows from before a row kept the digest of its settings. None may join them.
WITHOUT_DIGEST = {
    "few_shot_mini_imagenet",
    "few_shot_omniglot",
    "mnist_m",
}

each = pytest.mark.parametrize("name", NAMES)


def content(name: str) -> dict[str, Any]:
    return notebook.record_data(name, record.RESULTS)


def test_every_run_has_its_record_and_every_record_its_run() -> None:
    assert set(NAMES) == set(RUNS)


@each
def test_its_keys_are_those_that_are_written_down(name: str) -> None:
    data = content(name)
    assert TOP <= data.keys() <= TOP | {"machine"}
    for row in data["rows"]:
        assert ROW <= row.keys() <= ROW | ROW_MAY
        assert row["unit"] in ("accuracy", "mse", "loss", "BLEU", "chrF")
        assert (row["transductive"] is None) == (row["unit"] != "accuracy")
        assert row["ci95"] >= 0
        assert row["tasks"] >= 2
    for run in data["runs"]:
        assert {"what", "seed", "iterations", "seconds"} <= run.keys()
        if "curve" in run:
            at, values = run["curve"]["iteration"], run["curve"]["value"]
            assert len(at) == len(values) > 0
            assert at == sorted(at)
            assert at[-1] <= run["iterations"]
    for curve in data["curves"]:
        assert {"name", "seed", "value"} <= curve.keys() <= {"name", "seed", "value"} | ROW_MAY
    for figure in data["published"]:
        assert figure.keys() == {"name", "value", "cite"}


@each
def test_a_score_stands_there_once(name: str) -> None:
    keys = [
        tuple(row.get(key) for key in ("name", "setting", "transductive", "seed"))
        for row in content(name)["rows"]
    ]
    assert len(set(keys)) == len(keys)


@each
def test_its_command_is_one_that_would_make_it_again(name: str) -> None:
    data = content(name)
    found = re.fullmatch(r"python -m runs (.*)", data["command"])
    assert found
    options = parser().parse_args(found[1].split())
    seeds = options.seeds or RUNS[name].seeds
    assert options.name == name
    assert sorted(seeds) == data["seeds"]
    jobs = RUNS[name].jobs(seeds)
    for row in data["rows"]:
        owners = [job for job in jobs if job.owns(row)]
        assert len(owners) == 1, row
    for run in data["runs"]:
        assert run["seed"] in seeds


@each
def test_its_rows_were_made_with_the_settings_that_the_run_has_now(name: str) -> None:
    data = content(name)
    states = {job.state(data) for job in RUNS[name].jobs(data["seeds"])}
    assert "other" not in states
    assert ("unknown" in states) == (name in WITHOUT_DIGEST)


@each
def test_every_row_says_what_it_was_made_on(name: str) -> None:
    data = content(name)
    made = [*data["rows"], *data["runs"], *data["curves"]]
    assert {entry["origin"] for entry in made if "origin" in entry} == data["origins"].keys()
    if any("origin" not in entry for entry in made):
        assert data["machine"]
    for origin in data["origins"].values():
        assert {"command", "commit", "dirty", "processor", "threads", "torch"} <= origin.keys()
    assert not any(row.get("settings") == record.STALE for row in data["rows"])


@each
def test_it_is_written_as_the_runs_write_it(name: str) -> None:
    text = (record.RESULTS / f"{name}.json").read_text(encoding="utf-8")
    assert text == record.text_of(json.loads(text))


@each
def test_the_page_shows_all_of_it(name: str, tmp_path: Path) -> None:
    run = notebook.record(name, record.RESULTS)
    text = results_page.section(run, tmp_path).replace("\u00a0", " ")
    for word in (run.title, run.protocol, f"`{run.command}`", *run.names, *run.machines):
        assert word in text
    for row in run.rows:
        value = notebook.score_text(row).split(" ± ")[0]
        assert value in text, row
    assert "| --- | --- | --- |\n\n" not in text, "a table without rows"
    assert (tmp_path / f"{name}.svg").exists() == any("curve" in run for run in run.runs)


def test_the_outer_rates_of_the_translators_are_those_that_did_best() -> None:
    rows = content("translation")["rows"]
    for arm, chosen in translation_arms.CHOSEN.items():
        named = f"{arm}, outer rate "
        tried = {row["name"]: row["value"] for row in rows if row["name"].startswith(named)}
        assert len(tried) == len(translation_arms.TIMES)
        assert min(tried, key=lambda name: tried[name]) == f"{named}{chosen:g}"
