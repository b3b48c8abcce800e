"""The recipes of MAML that are compared, on small data of their own."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from metanotes import MAML
from metanotes.task import Batch, Task
from runs import few_shot, few_shot_recipe
from runs.__main__ import main
from runs.few_shot_recipe import LEARNERS, RECIPES, Average, LossAfterEachStep
from runs.omniglot import Classes
from tests.small_images import small_images, small_net

SOME = "as it is|averaged|one length|after each|inner rate (0.1|0.003)$"  # one of each kind


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The rows of a record on images that any learner can tell apart."""
    folder = tmp_path_factory.mktemp("recipes")
    small = replace(
        few_shot.IMAGE_SETS["few_shot_omniglot"],
        load=lambda: Classes(small_images(30, 0), small_images(24, 1), small_images(8, 2)),
        net=small_net,
        features=16,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METANOTES_CACHE", str(folder / "cache"))
        patch.setitem(few_shot.IMAGE_SETS, "few_shot_omniglot", small)
        for name, recipe in RECIPES.items():
            shorter = replace(recipe, iterations=recipe.iterations // 40)
            patch.setitem(RECIPES, name, shorter)
        patch.setattr(few_shot_recipe, "VALIDATION_TASKS", 50)
        main(["few_shot_recipe", "--seeds", "1", "--learners", SOME], folder)
    record = json.loads((folder / "few_shot_recipe.json").read_text())
    return {row["name"]: row for row in record["rows"]}


def test_every_recipe_learns_and_is_recorded(rows: dict[str, dict[str, Any]]) -> None:
    assert {RECIPES[name].learner for name in rows} == set(LEARNERS)
    assert all(row["value"] > 0.4 for row in rows.values())  # chance is a fifth at most
    assert all(row["setting"] == RECIPES[name].setting for name, row in rows.items())
    assert {row["setting"] for row in rows.values()} == {"5-way 1-shot", "20-way 1-shot"}


def _tasks() -> Task:
    generator = torch.Generator().manual_seed(0)

    def batch(size: int) -> Batch:
        x = torch.randn(3, size, 6, generator=generator, dtype=torch.float64)
        return Batch(x, torch.randint(4, (3, size), generator=generator))

    return Task(batch(4), batch(7))


def test_a_loss_after_each_step_is_the_mean_of_those_of_fewer_steps() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    after_each = LossAfterEachStep(model, 0.3, 3)(_tasks())
    alone = [MAML(model, 0.3, steps)(_tasks()) for steps in (1, 2, 3)]
    mean = torch.stack(alone).mean(0)
    torch.testing.assert_close(after_each, mean, rtol=0, atol=1e-12)
    ours = torch.autograd.grad(after_each.sum(), list(model.parameters()))
    plain = torch.autograd.grad(mean.sum(), list(model.parameters()))
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_an_average_is_plain_at_first_and_then_forgets() -> None:
    learner = MAML(nn.Linear(1, 1, bias=False), 0.1)
    average, seen = Average(learner, keeps=0.75), []
    for iteration, value in enumerate([4.0, 8.0, 0.0, 8.0, 1.0], 1):
        with torch.no_grad():
            learner.model.weight.fill_(value)
        average(iteration, 0.0, learner)
        seen.append(next(iter(average.learner.parameters())).item())
    assert seen == pytest.approx([4.0, 6.0, 4.0, 5.0, 0.75 * 5 + 0.25 * 1])
    assert learner.model.weight.item() == 1.0  # it only looked on
