"""What the records of the learned optimizers compare."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from metanotes.data.functions import NetworkSampler
from metanotes.task import Batch
from runs import learned_optimizer, learned_optimizer_quadratics
from runs.__main__ import main
from runs.hand_made import FACTORS, MAKERS, Grid, Make
from runs.learned_optimizer import Phase, convnet, end_loss, perceptron, rising


def test_weights_that_rise_sum_to_the_steps():
    assert torch.equal(rising(0), torch.ones(100))
    weights = rising(2)
    assert weights.argsort().tolist() == list(range(100))
    assert weights.sum().item() == pytest.approx(100, rel=0.02)
    assert weights[-1].item() == 3


def test_the_end_loss_is_that_of_each_network_on_all_images():
    g = torch.Generator().manual_seed(0)
    images = Batch(
        torch.randint(256, (30, 1, 28, 28), generator=g, dtype=torch.uint8),
        torch.randint(10, (30,), generator=g),
    )
    make = perceptron(784, 5, 10)
    sampler = learned_optimizer.networks(make, images, size=4, seed=1)
    assert isinstance(sampler, NetworkSampler)
    theta = sampler(3).theta
    for n, loss in enumerate(end_loss(sampler, theta, images)):
        model = make(0)
        model.load_state_dict({name: t[n] for name, t in theta.items()})
        expected = torch.nn.functional.cross_entropy(model(images.x / 255), images.y)
        torch.testing.assert_close(loss, expected)


def test_the_convolutional_network_is_as_large_as_it_says():
    assert sum(p.numel() for p in convnet(0).parameters()) == 7018
    assert convnet(0)(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def rows_of(folder: Path, name: str) -> dict[tuple[str, str | None, int | None], float]:
    rows = json.loads((folder / f"{name}.json").read_text())["rows"]
    return {(row["name"], row.get("setting"), row["seed"]): row["value"] for row in rows}


def second(name: str, make: Make, grid: Grid, goodness: object) -> dict[str, float]:
    """Instead of the search: the second of each list."""
    return {setting: values[1] for setting, values in grid.items()}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Short trainings, few functions, and noise for images."""
    monkeypatch.setenv("METANOTES_CACHE", str(tmp_path / "cache"))
    quadratics, mnist = learned_optimizer_quadratics, learned_optimizer
    monkeypatch.setattr(quadratics, "PHASES", {"first-order gradient": (True, 4, 5e-3)})
    monkeypatch.setattr(quadratics, "searched", second)
    monkeypatch.setattr(quadratics, "TEST_FUNCTIONS", 20)
    monkeypatch.setattr(quadratics, "VALIDATION_FUNCTIONS", 5)
    monkeypatch.setattr(quadratics, "TASKS", 2)
    monkeypatch.setattr(mnist, "PHASES", {"full": Phase(False, 2, 2, 2, 1e-3, 1.0)})
    few = {"784-20-10": (perceptron(784, 4, 10), 20), "ReLU": (perceptron(784, 3, 10), 10)}
    monkeypatch.setattr(mnist, "SETTINGS", few)
    monkeypatch.setattr(mnist, "TEST_NETWORKS", 3)
    monkeypatch.setattr(mnist, "VALIDATION_NETWORKS", 2)
    two = {name: mnist.GRIDS[name] for name in ("SGD", "Nesterov")}
    monkeypatch.setattr(mnist, "GRIDS", two)
    monkeypatch.setattr(mnist, "WITH_FALLING_RATES", ("Nesterov",))
    monkeypatch.setattr(mnist, "searched", second)
    g = torch.Generator().manual_seed(0)
    x = torch.randint(256, (200, 1, 28, 28), generator=g, dtype=torch.uint8)
    monkeypatch.setattr(mnist, "mnist", lambda part: Batch(x, torch.arange(200) % 10))
    mnist.rival_ends.cache_clear()
    return tmp_path


def test_quadratics_are_recorded_rule_by_rule(small: Path) -> None:
    name = "learned_optimizer_quadratics"
    main([name, "--seeds", "0", "2"], small)
    learned = {("learned, first-order gradient: sum", None, seed) for seed in (0, 2)}
    rows = rows_of(small, name)
    assert learned < rows.keys()
    hand_made = {key[0].split(",")[0] for key in rows if key[2] is None}
    assert hand_made == set(MAKERS) - {"AdamW"}
    content = json.loads((small / f"{name}.json").read_text())
    assert len(content["curves"]) == len(hand_made) + 2
    assert all(len(curve["value"]) == 101 for curve in content["curves"])
    assert [run["seed"] for run in content["runs"]] == [0, 2]


def test_the_learned_rule_is_compared_network_by_network(small: Path) -> None:
    name = "learned_optimizer"
    main([name, "--learners", "SGD|Nesterov"], small)
    before = rows_of(small, name)
    assert len(before) == 2 + 2 + len(FACTORS)
    main([name, "--seeds", "0", "1"], small)
    rows = rows_of(small, name)
    assert before.items() < rows.items()
    for setting in learned_optimizer.SETTINGS:
        rivals = {key[0]: value for key, value in before.items() if key[1] == setting}
        best = min(rivals, key=lambda rule: rivals[rule])
        for seed in (0, 1):
            difference = rows[f"learned minus {best}", setting, seed]
            assert difference == pytest.approx(
                rows["learned", setting, seed] - rivals[best], abs=2e-4
            )
    content = json.loads((small / f"{name}.json").read_text())
    assert [(run["what"], run["seed"]) for run in content["runs"]] == [
        ("learned, full", 0),
        ("learned, full", 1),
    ]


def test_rates_fall_where_the_runs_are_those_of_the_training_and_twice_as_long() -> None:
    for setting in learned_optimizer.SETTINGS:
        names = learned_optimizer.rivals(setting).keys()
        expected = {f"{name}, {kind}" for name in ("Nesterov", "Adam") for kind in FACTORS}
        at_home = setting in (learned_optimizer.HOME, learned_optimizer.LONGER)
        assert names - MAKERS.keys() == (expected if at_home else set())


def test_a_list_of_rates_goes_on_by_equal_factors() -> None:
    rates = learned_optimizer.rates(-2, 1)
    assert (rates[0], rates[-1], len(rates)) == (0.01, 10, 22)
    factors = [b / a for a, b in pairwise(rates)]
    assert 1.24 < min(factors) < max(factors) < 1.44
