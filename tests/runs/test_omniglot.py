"""The record of Omniglot, in small, on characters drawn from fonts."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from metanotes.data import glyphs
from metanotes.evaluation import Score, evaluate
from runs import omniglot
from runs.__main__ import main


def test_the_learner_is_chosen_by_validation_and_judged_in_four_ways(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn = omniglot.Classes(
        *omniglot.split_classes(glyphs("background"), 40, seed=0), glyphs("evaluation")
    )
    asked: list[dict[str, Any]] = []

    def few(learner: Any, sampler: Any, tasks: int = 600, **options: Any) -> Score:
        asked.append({"tasks": tasks, **options})
        return evaluate(learner, sampler, 2, **options)

    monkeypatch.setenv("METANOTES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(omniglot, "omniglot_classes", lambda: drawn)
    monkeypatch.setattr(omniglot, "ITERATIONS", 2)
    monkeypatch.setattr(omniglot, "EVERY", 1)
    monkeypatch.setattr(omniglot, "conv4", partial(omniglot.conv4, channels=4))
    monkeypatch.setattr(omniglot, "evaluate", few)
    main(["omniglot"], tmp_path)
    content = json.loads((tmp_path / "omniglot.json").read_text())
    judged = [(row["name"], row["transductive"], row["steps"]) for row in content["rows"]]
    assert judged == [
        (name, transductive, steps)
        for name, steps in (("MAML, 1 inner step", 1), ("MAML, 3 inner steps", 3))
        for transductive in (True, False)
    ]
    assert content["runs"][0]["curve"]["iteration"] == [1, 2]
    assert [options["tasks"] for options in asked] == [100, 100, 600, 600, 600, 600]
    assert content["seeds"] == [0]


def test_classes_are_split_with_none_in_both_parts() -> None:
    images = glyphs("background")
    first, others = omniglot.split_classes(images, 5, seed=1)
    assert len(first.names) == 5
    assert set(first.names) | set(others.names) == set(images.names)
    assert not set(first.names) & set(others.names)
    for part in (first, others):
        for c in (0, len(part.names) - 1):
            same = images.x[images.y == images.names.index(part.names[c])]
            assert torch.equal(part.x[part.y == c], same)
