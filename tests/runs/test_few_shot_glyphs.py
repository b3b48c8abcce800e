"""The contest on glyphs, with trainings of a few iterations."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from runs import few_shot_glyphs
from runs.__main__ import main
from runs.few_shot_glyphs import IN_PIXELS, NAME, RECIPES, WITHOUT, Contest, characters


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    characters()  # drawn once, and kept where all drawings are
    monkeypatch.setenv("METANOTES_CACHE", str(tmp_path / "cache"))
    for name, value in (("IMAGES", 1_500), ("VALIDATION", 2), ("TEST", 2)):
        monkeypatch.setattr(few_shot_glyphs, name, value)
    return tmp_path


@pytest.mark.parametrize("name", ["fine-tuning", "Reptile", "hyper-representation", WITHOUT])
def test_a_learner_gets_the_pair_of_rates_that_does_best_on_validation(
    folder: Path, name: str
) -> None:
    main([NAME, "--learners", f"^{name}$", "--seeds", "1"], folder)
    made = json.loads((folder / f"{NAME}.json").read_text())
    assert [row["transductive"] for row in made["rows"]] == [True, False]
    (note,) = {row["note"] for row in made["rows"]}
    inner, outer, tried = re.fullmatch(
        r"inner rate (\S+), outer rate (\S+) \((.*)\)", note
    ).groups()
    values = {pair: float(v) for pair, v in re.findall(r"([^,]+ / \S+): (\S+) %", tried)}
    values = {pair.strip(): value for pair, value in values.items()}
    assert len(values) == len(Contest(name, 1).pairs)
    assert values[f"{inner} / {outer}"] == max(values.values())


def test_every_training_sees_as_many_images() -> None:
    for name, recipe in RECIPES.items():
        a_task = recipe.ways * (recipe.shots + recipe.queries) or few_shot_glyphs.MINIBATCH
        seen = recipe.iterations * recipe.tasks * a_task
        assert 0.98 * few_shot_glyphs.IMAGES < seen <= few_shot_glyphs.IMAGES, name


def test_every_learner_chooses_from_as_many_pairs() -> None:
    without_descent = {"nearest neighbour in features"}
    counts = {name: len(Contest(name, 0).pairs) for name in RECIPES if name not in without_descent}
    assert set(counts.values()) == {25}


def test_the_characters_of_training_validation_and_test_are_different() -> None:
    parts = characters()
    assert not set(parts["train"].y.tolist()) & set(parts["validation"].y.tolist())
    flat = {part: of.x.flatten(1).float() for part, of in parts.items()}
    for part in ("train", "validation"):
        assert torch.cdist(flat["test"], flat[part]).min() > 0


def test_pixels_are_compared_without_a_seed(folder: Path) -> None:
    main([NAME, "--learners", IN_PIXELS], folder)
    made = json.loads((folder / f"{NAME}.json").read_text())
    assert {row["seed"] for row in made["rows"]} == {None}
