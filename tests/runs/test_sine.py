"""The record of sine waves, in small: its rows, and that legs change nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from runs import jobs, sine
from runs.__main__ import main


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("METANOTES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sine, "ITERATIONS", 7)
    monkeypatch.setattr(sine, "VALIDATION", 50)
    monkeypatch.setattr(sine, "RATES", (1e-3, 1e-2))
    return tmp_path


def rows(folder: Path) -> list[dict[str, Any]]:
    content = json.loads((folder / "sine.json").read_text())
    return [{**row, "origin": None} for row in content["rows"]]


def test_each_learner_is_judged_after_several_numbers_of_steps(small: Path) -> None:
    main(["sine", "--seeds", "3", "--learners", "MAML$"], small)
    expected = [
        (f"{name}, after {steps} step{'' if steps == 1 else 's'}", steps)
        for name in ("MAML", "First-order MAML")
        for steps in (0, 1, 5, 10)
    ]
    made = rows(small)
    assert [(row["name"], row["steps"]) for row in made] == expected
    assert all((row["unit"], row["tasks"], row["seed"]) == ("mse", 600, 3) for row in made)


def test_rates_are_chosen_and_joint_pretraining_has_one_to_descend_with(small: Path) -> None:
    main(["sine", "--seeds", "0"], small)
    for row in rows(small):
        rate, tried, inner = re.match(
            r"outer rate (\S+) \((.*?)\)(?:, inner rate (\S+))?$", row["note"]
        ).groups()
        errors = dict(part.split(": ") for part in tried.split(", "))
        assert min(errors, key=lambda tried: float(errors[tried])) == rate
        assert (inner is not None) == row["name"].startswith("Joint")


def test_a_training_in_legs_gives_the_same_scores_as_one_in_one_go(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["sine", "--seeds", "0", "--learners", "^MAML"]
    main(line, small / "whole")
    monkeypatch.setenv("METANOTES_CACHE", str(small / "other"))
    monkeypatch.setattr(jobs, "LEGS", 3)
    main([*line, "--minutes", "1000"], small / "legs")
    assert rows(small / "legs") == rows(small / "whole")
    saved = list((small / "other").rglob("*.pt"))
    assert len(saved) == len(sine.RATES)


def test_a_checkpoint_that_cannot_be_used_is_told_with_the_way_out(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["sine", "--seeds", "0", "--learners", "^MAML"]
    main(line, small)
    first = rows(small)
    (small / "sine.json").unlink()
    path = next((small / "cache").rglob("*.pt"))
    path.write_bytes(b"half of one")
    assert main(line, small) == 1
    assert "--fresh removes it" in capsys.readouterr().err
    assert main([*line, "--fresh"], small) == 0
    assert rows(small) == first
