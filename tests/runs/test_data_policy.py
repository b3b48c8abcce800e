"""The record of weights for examples, in small: its rows, and that nobody sees too much."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from runs import data_policy
from runs.__main__ import main


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    for name in data_policy.RATES:
        monkeypatch.setitem(data_policy.RATES, name, (0.03, 0.1))
    monkeypatch.setattr(data_policy, "MARKS", 4)
    monkeypatch.setattr(data_policy, "NINES", 95)
    monkeypatch.setattr(data_policy, "TEST", 30)
    for name, settings in data_policy.SETTINGS.items():
        monkeypatch.setitem(data_policy.SETTINGS, name, (*settings[:3], 8))
    data_policy.printed.cache_clear()
    yield tmp_path
    data_policy.printed.cache_clear()


def content(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "data_policy.json").read_text())
    return read


def test_each_method_is_judged_at_the_end_and_stopped_early(small: Path) -> None:
    assert main(["data_policy", "--seeds", "3"], small) == 0
    made = content(small)
    for setting in data_policy.SETTINGS:
        rows = [row for row in made["rows"] if row["setting"] == setting]
        assert [row["name"] for row in rows] == [
            f"{method}, {name}"
            for method in data_policy.methods(setting)
            for name in ("rate 0.03", "rate 0.1", "at the end", "stopped early")
        ]
        assert all(row["steps"] == 8 for row in rows if row["name"].endswith("end"))
        assert {row["steps"] for row in rows} <= {2, 4, 6, 8}
    curves = {curve["name"] for curve in made["curves"]}
    assert {"L2RW, rate 0.1: weight of the odd ones", "plain, rate 0.03: accuracy"} <= curves
    assert "plain, rate 0.1: weight of the others" not in curves


@pytest.mark.parametrize("setting", data_policy.SETTINGS)
def test_the_parts_of_the_data_are_apart(setting: str, small: Path) -> None:
    drawn = data_policy.data(setting, 0)
    n = data_policy.SETTINGS[setting][0] if setting != data_policy.RARE else 100
    assert len(drawn.train.y) == len(drawn.odd) == n
    assert len(drawn.clean.y) == len(drawn.choice.y)
    parts = (drawn.train, drawn.clean, drawn.choice, drawn.test)
    whole = torch.cat([each.x for each in parts])
    assert len(whole.unique(dim=0)) > 0.99 * len(whole)
    again = data_policy.data(setting, 0)
    assert torch.equal(again.train.y, drawn.train.y)
    assert not torch.equal(data_policy.data(setting, 1).train.x, drawn.train.x)


def test_four_tenths_of_the_labels_are_wrong_and_no_other(small: Path) -> None:
    of = data_policy.handwritten()
    drawn = data_policy.data(data_policy.MEMORISES, 0)
    labels = {bytes(x.numpy().tobytes()): int(y) for x, y in zip(*of, strict=True)}
    true = torch.tensor([labels[x.numpy().tobytes()] for x in drawn.train.x])
    assert torch.equal(drawn.odd, true != drawn.train.y)
    assert 0.35 < drawn.odd.double().mean() < 0.45
