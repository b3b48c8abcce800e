"""The record of sequences, in small, on characters drawn from fonts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from metanotes.data import glyphs
from metanotes.task import Batch
from runs import omniglot, sequences_omniglot
from runs.__main__ import main

LEARNERS: dict[str, dict[str, Any]] = {
    "MANN": {"hidden": 8, "slots": 7, "width": 5, "heads": 1},
    "LSTM": {"hidden": 8},
    "transformer": {"width": 8, "heads": 2, "layers": 1},
    "memory module": {"slots": 9, "features": 6, "margin": 0.1},
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    drawn = omniglot.Classes(
        *omniglot.split_classes(glyphs("background"), 40, seed=0), glyphs("evaluation")
    )
    settings = {
        "omniglot_classes": lambda: drawn,
        "conv4": partial(sequences_omniglot.conv4, channels=4),
        "BODY": {"iterations": 2, "ways": 6, "queries": 2, "lr": 3e-3},
        "LEARNERS": LEARNERS,
        "LENGTH": 15,
        "ITERATIONS": 4,
        "SEARCH": 2,
        "GRID": ((1e-3, 0.5), (1e-2, 2.0)),
        "PRESENTATIONS": (1, 3),
        "VALIDATION": 3,
        "TEST": 4,
        "STREAMS": 2,
        "STREAM_SLOTS": (5, 30),
        "STREAM_PRESENTATIONS": (2, 4),
    }
    for name, value in settings.items():
        monkeypatch.setattr(sequences_omniglot, name, value)
    monkeypatch.setenv("METANOTES_CACHE", str(tmp_path / "cache"))
    sequences_omniglot.features.cache_clear()
    yield tmp_path
    sequences_omniglot.features.cache_clear()


def content(folder: Path) -> dict[str, Any]:
    made: dict[str, Any] = json.loads((folder / "sequences_omniglot.json").read_text())
    return made


def test_each_learner_is_searched_trained_and_judged_by_presentation(small: Path) -> None:
    assert main(["sequences_omniglot", "--seeds", "3"], small) == 0
    made = content(small)
    names = [row["name"] for row in made["rows"]]
    expected = [f"{n}, presentation {k}" for n in ("MANN", "LSTM", "transformer") for k in (1, 3)]
    expected += [f"memory module, presentation {k}" for k in (1, 3)]
    expected += [
        f"memory module, life-long, {slots} slots, presentation {k}"
        for slots in (5, 30)
        for k in (2, 4)
    ]
    expected += [f"counting, presentation {k}" for k in (1, 3)]
    assert names == expected
    assert {row["tasks"] for row in made["rows"] if "life-long" in row["name"]} == {2}
    assert {row["tasks"] for row in made["rows"] if "life-long" not in row["name"]} == {4}
    assert [row["seed"] for row in made["rows"] if row["name"].startswith("counting")] == [None] * 2
    trainings = {run["what"]: run for run in made["runs"]}
    for name in LEARNERS:
        assert trainings[name]["iterations"] == 4
        assert trainings[name]["curve"]["iteration"] == [1, 2, 3, 4]
        for settings in ("rate 0.001, scale 0.5", "rate 0.01, scale 2"):
            assert trainings[f"{name}, {settings}, 2 iterations"]["iterations"] == 2
    assert len(made["curves"]) == 4 + 2 + 1
    assert all(len(curve["value"]) >= 3 for curve in made["curves"])


def test_the_rate_and_scale_are_those_of_the_best_validation(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[int] = []
    scores = iter([0.2, 0.5] + [0.3] * 20)
    score_of = sequences_omniglot._score_of

    def fake(learner: Any, data: Batch, number: int, seed: int) -> Any:
        judged.append(seed)
        real = score_of(learner, data, number, seed)
        if seed != 2_000_000:
            return real
        value = next(scores)
        for score in real:
            score.values.fill_(value)
        return real

    monkeypatch.setattr(sequences_omniglot, "_score_of", fake)
    main(["sequences_omniglot", "--seeds", "0", "--learners", "LSTM"], small)
    notes = {row["note"] for row in content(small)["rows"]}
    assert notes == {"rate / scale 0.01 / 2 (0.001 / 0.5: 20.0 %, 0.01 / 2: 50.0 %)"}
    assert judged.count(1_000_000) == 1
    assert judged[-1] == 1_000_000  # the test comes last, once


def test_what_was_interrupted_goes_on_to_the_same_rows(small: Path) -> None:
    line = ["sequences_omniglot", "--seeds", "0", "--learners", "MANN"]
    main(line, small / "whole")
    first = [{**row, "origin": None} for row in content(small / "whole")["rows"]]
    for path in (small / "cache").rglob("*iterations/*"):
        path.unlink()  # as if the search had been lost, and the rest not
    sequences_omniglot.features.cache_clear()
    main(line, small / "again")
    assert [{**row, "origin": None} for row in content(small / "again")["rows"]] == first


def test_prototypes_lose_what_a_loop_says() -> None:
    g = torch.Generator().manual_seed(0)
    x, x_query = (torch.randn(2, n, 4, generator=g).double() for n in (6, 5))
    y = torch.stack([torch.randperm(6, generator=g) % 3 for _ in range(2)])
    y_query = torch.randint(3, (2, 5), generator=g)
    body = torch.nn.Linear(4, 7).double()
    losses = sequences_omniglot.Prototypes(body, 3)(
        sequences_omniglot.Task(Batch(x, y), Batch(x_query, y_query))
    )
    for n in range(2):
        centers = [body(x[n][y[n] == c]).mean(0) for c in range(3)]
        expected = 0.0
        for q, label in zip(body(x_query[n]), y_query[n].tolist(), strict=True):
            logits = torch.stack([-(q - center).square().sum() for center in centers])
            expected = expected - logits.log_softmax(0)[label] / 5
        torch.testing.assert_close(losses[n], expected)
