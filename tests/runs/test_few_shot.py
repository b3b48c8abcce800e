"""The command that records few-shot learners, on small data of its own."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import results_page
import torch
from torch import nn

from metanotes import notebook
from metanotes.learner import Learner
from runs import few_shot
from runs.__main__ import main
from runs.few_shot_entry import Entry, rising_and_falling
from runs.few_shot_learners import CONTENDERS
from runs.omniglot import Classes
from tests.small_images import small_images, small_net

NAME = "few_shot_omniglot"


class _Products(nn.Module):
    """A relation that has nothing to learn."""

    def forward(self, queries: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        return queries @ classes.mT


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METANOTES_CACHE", str(tmp_path / "cache"))
    small = replace(
        few_shot.IMAGE_SETS[NAME],
        load=lambda: Classes(small_images(30, 0), small_images(8, 1), small_images(8, 2)),
        net=small_net,
        related=lambda seed: (small_net(2, seed)[:-1], _Products()),
        features=16,
        many=10,
        settings={"5-way 1-shot": (5, 1), "3-way 2-shot": (3, 2)},
        scale=0.002,
    )
    monkeypatch.setitem(few_shot.IMAGE_SETS, NAME, small)
    monkeypatch.setattr(few_shot, "TEST_TASKS", 50)
    return tmp_path


def _record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / f"{NAME}.json").read_text())


@pytest.mark.parametrize("learner", [name for name in CONTENDERS if "conv" not in name])
def test_every_learner_is_recorded_with_its_protocol(folder: Path, learner: str) -> None:
    main([NAME, "--learners", f"^{learner}$", "--seeds", "3"], folder)
    rows = _record(folder)["rows"]
    assert {(row["setting"], row["transductive"]) for row in rows} == {
        (setting, how) for setting in ("5-way 1-shot", "3-way 2-shot") for how in (True, False)
    }
    assert all(row["tasks"] == 50 and row["seed"] == 3 for row in rows)
    # Means that differ are told apart by any learner that learns: chance is a fifth, or a third.
    chance = {"5-way 1-shot": 0.2, "3-way 2-shot": 1 / 3}
    if learner != "joint pre-training":
        assert all(row["value"] > chance[row["setting"]] + 0.2 for row in rows)
    if learner == "Reptile":  # its outer step is 1, and another rate is searched for
        assert all(row["note"].startswith("inner rate ") for row in rows)


def test_what_is_done_is_left_alone_and_the_rest_is_added(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [NAME, "--learners", "MAML$|pixels", "--settings", "5-way"]
    main([*line, "--seeds", "0"], folder)
    before = _record(folder)
    capsys.readouterr()
    main([*line, "--seeds", "0", "1"], folder)
    after = _record(folder)
    assert after["rows"][: len(before["rows"])] == before["rows"]
    assert after["seeds"] == [0, 1]
    assert "seed 0" not in capsys.readouterr().out
    # Lost rows are made again from the checkpoint, to the same figures, without a second run.
    lost = [row for row in after["rows"] if row["name"] == "MAML" and row["seed"] == 0]
    after["rows"] = [row for row in after["rows"] if row not in lost]
    (folder / f"{NAME}.json").write_text(json.dumps(after))
    main([*line, "--seeds", "0", "1"], folder)
    again = _record(folder)
    assert len(again["runs"]) == len(after["runs"])
    assert len(lost) == 2
    assert all({**row, "origin": None} in _without_origin(again["rows"]) for row in lost)


def test_the_outer_rate_rises_in_a_line_and_falls_to_zero() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=2.0)
    scheduler = rising_and_falling(optimizer, 12, 4)
    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert rates[4:] == pytest.approx([1 + math.cos(math.pi * t / 8) for t in range(8)])


def test_of_several_outer_rates_the_best_is_trained_for_long(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[float] = []

    def validated(entry: Entry, learner: Learner, steps: int | None = None) -> float:
        judged.append(0.5 + 0.1 * (len(judged) == 1))  # the second rate is the best
        return judged[-1]

    monkeypatch.setattr(Entry, "validate", validated)
    monkeypatch.setattr(
        Entry,
        "train",
        lambda *args, optimizer, **rest: rates.append((args[2], optimizer.param_groups[0]["lr"])),
    )
    rates: list[tuple[str, float]] = []
    main([NAME, "--learners", "^MAML$", "--settings", "5-way", "--seeds", "0"], folder)
    what = "MAML 5-way 1-shot"
    tried = [(f"{what}, rate {rate:g}", rate) for rate in CONTENDERS["MAML"].rates]
    assert rates == [*tried, (what, tried[1][1])]
    notes = {row["note"] for row in _record(folder)["rows"]}
    assert notes == {"outer rate 0.003 (0.001: 50.0 %, 0.003: 60.0 %, 0.01: 50.0 %)"}


def test_with_more_ways_a_learner_has_the_settings_that_it_names(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"5-way 1-shot": (5, 1), "20-way 1-shot": (20, 1)}
    images = replace(few_shot.IMAGE_SETS[NAME], settings=settings)
    contender = CONTENDERS["first-order MAML"]
    others = contender.with_more_ways
    steps = {"5-way 1-shot": contender.arguments["steps"], "20-way 1-shot": 5}
    assert others["arguments"]["steps"] == 5 != contender.arguments["steps"]
    made: list[int] = []  # tasks in a batch
    monkeypatch.setattr(Entry, "train", lambda *args, **rest: made.append(args[6]))
    for setting, expected in steps.items():
        entry = Entry(images, "first-order MAML", setting, 0)
        assert contender.training(entry)["arguments"]["steps"] == expected
        assert contender.after(entry, None, "", 0.1).steps == expected
    assert made == [contender.batch, others["batch"] // 2]


def _without_origin(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "origin": None} for row in rows]


def _scores(rows: list[dict[str, Any]]) -> list[Any]:
    return [(row["name"], row["transductive"], row["value"], row.get("steps")) for row in rows]


def _curves(record: dict[str, Any]) -> dict[str, Any]:
    return {run["what"]: run["curve"] for run in record["runs"]}


def test_a_body_without_a_head_is_trained_once_for_all_settings(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = [NAME, "--learners", "hyper|features|fine-tuning|proto|relation", "--seeds", "0"]
    main(line, folder)
    whole = _record(folder)
    trainings = sorted(run["what"] for run in whole["runs"])
    assert sum(", rate" in what for what in trainings) == 20  # four to choose from, five times
    assert [what for what in trainings if ", rate" not in what] == [
        "classifier",
        "hyper-representation",
        "prototypical network",
        "relation network 1-shot",  # once for each number of shots
        "relation network 2-shot",
    ]
    # Which setting asks for it first does not matter: it is validated in the same one.
    (folder / f"{NAME}.json").unlink()
    monkeypatch.setenv("METANOTES_CACHE", str(folder / "other"))
    main([*line, "--settings", "3-way"], folder)
    rows = [row for row in whole["rows"] if row["setting"] == "3-way 2-shot"]
    assert _scores(_record(folder)["rows"]) == _scores(rows)
    assert _curves(_record(folder)).items() <= _curves(whole).items()


def test_the_page_has_a_column_a_setting_and_the_figures_of_every_seed(folder: Path) -> None:
    main([NAME, "--learners", "pixels|MAML$", "--seeds", "0", "1"], folder)
    record = _record(folder)
    text = results_page.section(notebook.record(NAME, folder), folder / "pictures")
    assert "| learner | 5-way 1-shot | 3-way 2-shot |" in text
    values = [
        f"{100 * row['value']:.1f}"
        for row in record["rows"]
        if row["name"] == "MAML" and row["setting"] == "5-way 1-shot" and row["transductive"]
    ]
    assert len(values) == 2
    assert ", ".join(values) in text
    assert (folder / "pictures" / f"{NAME}.svg").exists()
