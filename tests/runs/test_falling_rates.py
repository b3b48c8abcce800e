"""Hand-made rules whose rates fall, beside torch's schedulers, and what their record compares."""

import json
from pathlib import Path

import pytest
import torch

from metanotes.methods.optimizers import LSTMRule
from metanotes.task import Batch
from metanotes.update_rules import SGD
from runs import falling_rates, learned_optimizer
from runs.__main__ import main
from runs.falling_rates import rivals
from runs.learned_optimizer import Phase, perceptron

STEPS = 6


def torch_scheduler(name: str, optimizer: torch.optim.Optimizer):
    """The same schedule by torch, or None."""
    schedulers = torch.optim.lr_scheduler
    if name.endswith("linear"):
        return schedulers.LinearLR(optimizer, 1.0, 0.0, total_iters=STEPS)
    if name.endswith("cosine"):
        return schedulers.CosineAnnealingLR(optimizer, STEPS)
    if name.endswith("1/t"):
        return schedulers.LambdaLR(optimizer, lambda t: 1 / (1 + 10 * t / STEPS))
    return None


@pytest.mark.parametrize("name", rivals(STEPS))
def test_each_rival_is_torchs_optimizer_under_torchs_scheduler(name: str) -> None:
    weights = torch.tensor([[1.0, -2.0, 3.0]], dtype=torch.float64)
    scale = torch.tensor([0.5, 4.0, 1.5], dtype=torch.float64)
    p = torch.nn.Parameter(weights[0].clone())
    if name.startswith("Nesterov"):
        theirs: torch.optim.Optimizer = torch.optim.SGD([p], 0.05, momentum=0.9, nesterov=True)
    elif name == "AdamW":
        theirs = torch.optim.AdamW([p], 0.05, weight_decay=falling_rates.DECAY)
    else:
        theirs = torch.optim.Adam([p], 0.05)
    scheduler = torch_scheduler(name, theirs)

    rule, theta = rivals(STEPS)[name](0.05), {"w": weights}
    state = rule.init(theta)
    for _ in range(STEPS):
        updates, state = rule({"w": scale * theta["w"]}, state)
        theta = {"w": theta["w"] + updates["w"]}
        p.grad = scale * p.detach()
        theirs.step()
        if scheduler is not None:
            scheduler.step()
    torch.testing.assert_close(theta["w"][0], p.detach(), rtol=1e-10, atol=0)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Few networks, two rivals, short trainings, and noise for images."""
    monkeypatch.setenv("METANOTES_CACHE", str(tmp_path / "cache"))
    few = {"784-20-10": (perceptron(784, 4, 10), 10)}
    monkeypatch.setattr(learned_optimizer, "SETTINGS", few)
    monkeypatch.setattr(learned_optimizer, "PHASES", {"full": Phase(False, 2, 2, 2, 1e-3, 1.0)})
    monkeypatch.setattr(learned_optimizer, "VALIDATION_NETWORKS", 2)
    settings = {"784-20-10": ("784-20-10", 1), "784-20-10, new networks": ("784-20-10", 2)}
    monkeypatch.setattr(falling_rates, "SETTINGS", settings)
    monkeypatch.setattr(falling_rates, "NETWORKS", 3)
    monkeypatch.setattr(falling_rates, "tuned", lambda name, goodness, around, rates, make: 0.1)
    all_rivals = rivals

    def two(steps: int):
        return {name: all_rivals(steps)[name] for name in ("Adam", "Nesterov, linear")}

    monkeypatch.setattr(falling_rates, "rivals", two)
    g = torch.Generator().manual_seed(0)
    x = torch.randint(256, (200, 1, 28, 28), generator=g, dtype=torch.uint8)
    monkeypatch.setattr(learned_optimizer, "mnist", lambda part: Batch(x, torch.arange(200) % 10))
    falling_rates.rival.cache_clear()
    falling_rates.chosen_rate.cache_clear()
    return tmp_path


def test_the_learned_rule_is_compared_network_by_network(small: Path) -> None:
    main(["falling_rates", "--seeds", "1"], small)
    content = json.loads((small / "falling_rates.json").read_text())
    rows = [row for row in content["rows"] if row["setting"] == "784-20-10, new networks"]
    values = {row["name"]: row["value"] for row in rows}
    assert [run["seed"] for run in content["runs"]] == [1]
    for name in ("Adam", "Nesterov, linear"):
        difference = values["learned"] - values[f"{name}, rate 0.1"]
        assert values[f"learned minus {name}"] == pytest.approx(difference, abs=2e-4)


def test_the_recorded_rule_is_that_of_seed_0(small: Path) -> None:
    rule = LSTMRule(seed=5)
    torch.save(rule.state_dict(), small / "learned_optimizer.pt")
    main(["falling_rates", "--seeds", "0", "--learners", "learned"], small)
    content = json.loads((small / "falling_rates.json").read_text())
    assert content["runs"] == []  # nothing was trained
    losses, _ = falling_rates.ends("784-20-10", rule)
    other, _ = falling_rates.ends("784-20-10", SGD(0.1))
    row = next(row for row in content["rows"] if row["name"] == "learned")
    assert row["setting"] == "784-20-10"
    assert row["value"] == pytest.approx(losses.mean().item(), abs=2e-4)
    assert row["value"] != pytest.approx(other.mean().item(), abs=2e-4)


def test_networks_that_were_looked_at_judge_one_rule_and_new_ones_all() -> None:
    jobs = falling_rates.jobs((0, 1, 2))
    seeds = {
        setting: [job.seed for job in jobs if job.setting == setting and job.seed is not None]
        for setting in falling_rates.SETTINGS
    }
    assert list(seeds.values()) == [[0], [0, 1, 2], [0, 1, 2]]
    trained = {job.seed: set() for job in jobs}
    for job in jobs:
        trained[job.seed].add(str(job.training))
    assert all(len(settings) == 1 for settings in trained.values())  # a rule is trained once


def test_the_rate_of_a_rival_is_that_of_its_kind_whatever_the_test_networks(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = iter([0.1, 0.2])
    monkeypatch.setattr(falling_rates, "tuned", lambda *a: next(rates))
    main(["falling_rates", "--seeds", "0", "--learners", "Adam"], small)
    rows = json.loads((small / "falling_rates.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["Adam, rate 0.1"] * 2
    assert rows[0]["value"] != rows[1]["value"]  # other networks
