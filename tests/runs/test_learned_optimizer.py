"""How the hand-made rules are tuned, and what the MNIST record compares."""

import json
import math
from pathlib import Path

import pytest
import torch

from metanotes import SGD
from metanotes.data.functions import NetworkSampler
from metanotes.task import Batch
from runs import learned_optimizer, learned_optimizer_quadratics
from runs.__main__ import main
from runs.hand_made import HAND_MADE, tuned
from runs.learned_optimizer import Phase, convnet, end_loss, perceptron, rising


@pytest.mark.parametrize("around", [None, 0.03, 3])
def test_the_best_rate_is_found(around):
    seen = []

    def goodness(rule: SGD) -> float:
        seen.append(rule.lr)
        return math.nan if rule.lr > 5 else abs(math.log(rule.lr / 0.3))

    assert tuned("SGD", goodness, around) == 0.3
    assert len(seen) == len(set(seen)) <= len(HAND_MADE["SGD"][1])


def test_a_best_rate_at_the_end_of_the_list_is_refused():
    with pytest.raises(ValueError, match=r"best rate of SGD is 0.003, at the end of"):
        tuned("SGD", lambda rule: rule.lr)


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


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Short trainings, few functions, and noise for images."""
    monkeypatch.setenv("METANOTES_CACHE", str(tmp_path / "cache"))
    quadratics, mnist = learned_optimizer_quadratics, learned_optimizer
    monkeypatch.setattr(quadratics, "PHASES", {"first-order gradient": (True, 4, 5e-3)})
    monkeypatch.setattr(quadratics, "tuned", lambda name, goodness, rates: rates[1])
    monkeypatch.setattr(quadratics, "TEST_FUNCTIONS", 20)
    monkeypatch.setattr(quadratics, "VALIDATION_FUNCTIONS", 5)
    monkeypatch.setattr(quadratics, "TASKS", 2)
    monkeypatch.setattr(mnist, "PHASES", {"full": Phase(False, 2, 2, 2, 1e-3, 1.0)})
    few = {"784-20-10": (perceptron(784, 4, 10), 20), "ReLU": (perceptron(784, 3, 10), 10)}
    monkeypatch.setattr(mnist, "SETTINGS", few)
    monkeypatch.setattr(mnist, "TEST_NETWORKS", 2)
    monkeypatch.setattr(mnist, "TEST_NETWORKS_AT_HOME", 3)
    monkeypatch.setattr(mnist, "VALIDATION_NETWORKS", 2)
    monkeypatch.setattr(mnist, "HAND_MADE", {name: HAND_MADE[name] for name in ("SGD", "Adam")})
    monkeypatch.setattr(mnist, "tuned", lambda name, goodness, around: around or 0.1)
    g = torch.Generator().manual_seed(0)
    x = torch.randint(256, (200, 1, 28, 28), generator=g, dtype=torch.uint8)
    monkeypatch.setattr(mnist, "mnist", lambda part: Batch(x, torch.arange(200) % 10))
    mnist.hand_made_ends.cache_clear()
    return tmp_path


def test_quadratics_are_recorded_rule_by_rule(small: Path) -> None:
    name = "learned_optimizer_quadratics"
    main([name, "--seeds", "0", "2"], small)
    learned = {("learned, first-order gradient: sum", None, seed) for seed in (0, 2)}
    rows = rows_of(small, name)
    assert learned < rows.keys()
    hand_made = {key[0].split(",")[0] for key in rows if key[2] is None}
    assert hand_made == set(HAND_MADE)
    content = json.loads((small / f"{name}.json").read_text())
    assert len(content["curves"]) == len(HAND_MADE) + 2
    assert all(len(curve["value"]) == 101 for curve in content["curves"])
    assert [run["seed"] for run in content["runs"]] == [0, 2]


def test_the_learned_rule_is_compared_network_by_network(small: Path) -> None:
    name = "learned_optimizer"
    main([name, "--learners", "SGD|Adam"], small)
    before = rows_of(small, name)
    assert len(before) == 4
    assert not (small / "learned_optimizer.pt").exists()
    main([name], small)
    rows = rows_of(small, name)
    assert before.items() < rows.items()
    for setting in learned_optimizer.SETTINGS:
        here = {key[0]: value for key, value in rows.items() if key[1] == setting}
        best = min(("SGD, rate 0.1", "Adam, rate 0.1"), key=lambda rule: here[rule])
        difference = here[f"learned minus {best}, network by network"]
        assert difference == pytest.approx(here["learned"] - here[best], abs=2e-4)
    content = json.loads((small / f"{name}.json").read_text())
    assert [run["what"] for run in content["runs"]] == ["learned, full"]
    assert (small / "learned_optimizer.pt").exists()


def test_a_rate_is_searched_from_that_of_the_setting_before(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = []

    def tuned(name: str, goodness: object, around: float | None) -> float:
        starts.append(around)
        return 0.3 if around is None else 3 * around

    monkeypatch.setattr(learned_optimizer, "tuned", tuned)
    main(["learned_optimizer", "--learners", "SGD", "--settings", "ReLU"], small)
    assert starts == [None, 0.3]
    starts.clear()
    main(["learned_optimizer", "--learners", "SGD"], small)
    assert starts == [None]
