"""The record of augmentation, in small: its rows and the paths of what is learned."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from runs import augmentation
from runs.__main__ import main


def test_each_method_has_a_row_and_each_learned_range_a_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(augmentation, "RATES", (0.03,))
    monkeypatch.setattr(augmentation, "STEPS", 6)
    monkeypatch.setattr(augmentation, "MARKS", 3)
    assert main(["augmentation", "--seeds", "2"], tmp_path) == 0
    made = json.loads((tmp_path / "augmentation.json").read_text())
    assert [row["name"] for row in made["rows"]] == list(augmentation.METHODS)
    assert all(re.fullmatch(r"rate 0.03 \(0.03: [\d.]+ %\)", row["note"]) for row in made["rows"])
    paths = {curve["name"]: curve["value"] for curve in made["curves"]}
    assert len(paths) == 3 + 7
    assert len(paths["learned ranges: turn"]) == 3
    assert paths["learned ranges: turn"][0] == pytest.approx(5, rel=0.1)
    shares = [v for name, v in paths.items() if "share of" in name]
    torch.testing.assert_close(torch.tensor(shares).sum(0), torch.ones(3), rtol=0, atol=1e-3)


def test_only_what_is_judged_is_turned() -> None:
    drawn = augmentation.data(0)
    of = augmentation.images()
    known = {bytes(x.numpy().tobytes()) for x in of.x}
    assert all(bytes(x.numpy().tobytes()) in known for x in drawn.train.x)
    for part in (drawn.shown, drawn.choice, drawn.test):
        same = sum(bytes(x.numpy().tobytes()) in known for x in part.x)
        assert same < 0.05 * len(part.y)
    assert torch.equal(augmentation.data(0).test.x, drawn.test.x)
